"""Whether the theorems hold (imported as memopt_ref.theory)."""
