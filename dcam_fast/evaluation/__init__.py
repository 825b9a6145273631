"""Which map is right: metrics, datasets, a runner with its report, the paper's tables, the search for the default."""
