"""Timing, tables, compiled train steps and their figures, for several benchmarks."""
