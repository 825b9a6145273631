"""The search for the default and the paper's tables."""
