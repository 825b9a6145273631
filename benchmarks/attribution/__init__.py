"""What a pass costs: speed, memory, approximations."""
