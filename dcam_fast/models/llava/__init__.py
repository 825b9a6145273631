"""LaViDa and LLaDA-V, which share LLaVA's image processing."""
