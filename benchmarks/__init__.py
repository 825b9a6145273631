"""The one way to measure and to report: `dcam-fast bench`. Imported as `dcam_fast.benchmarks`."""
