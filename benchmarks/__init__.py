"""Benchmarks: `python -m benchmarks NAME`. Ratios of two sides measured in turns, in one run."""
