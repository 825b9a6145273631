"""Studies: the search for the default settings, and the tables of the paper."""
