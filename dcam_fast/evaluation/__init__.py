"""Measuring which maps are right: metrics, datasets, the runner and its report, and the studies."""
