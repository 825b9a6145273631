"""Which map is right: metrics, the localisation table on held-out scenes, and the search for the default."""
