"""Benchmarks, imported as `dcam_fast.benchmarks`. `dcam-fast bench` runs the suite."""
