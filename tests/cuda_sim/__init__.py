"""Runs kernels of CUDA C on the host, and checks them; see README.md beside this."""
