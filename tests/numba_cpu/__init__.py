"""Tests of the compiled CPU kernels, one file a topic."""
