"""Benchmarks for asv; they meet any commit of the library through its public names alone."""
