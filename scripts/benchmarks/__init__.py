"""Benchmarks: every figure in the documentation is printed by one of these. `scripts/bench --help`."""
