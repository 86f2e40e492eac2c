"""Benchmarks: one scenario a file, contestants as programs of their own. What counts are ratios and CPU time."""
