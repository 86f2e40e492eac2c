"""Benchmarks: one scenario a file. Figures are ratios to a baseline in the same run."""
