"""How the rules run fast (imported as memopt_ref.backends)."""
