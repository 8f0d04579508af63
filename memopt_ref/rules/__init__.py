"""The rules: one file a family, NumPy only, written to be read beside the paper."""
