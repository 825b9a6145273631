"""Speed, memory and approximations of the attribution pass."""
