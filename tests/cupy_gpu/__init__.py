"""The GPU's kernels: compiled by NVRTC for three devices; run by a simulator or, if there is one, a GPU."""
