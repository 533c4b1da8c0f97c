"""Benchmarks that print: ratios within one run, memory, numerics, real input. `make bench` runs them all."""
