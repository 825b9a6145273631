"""The targets of tools/fuzz and what runs them."""
