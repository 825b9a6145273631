"""The commands, one file each: options and output. What takes long to import is imported when a command runs."""
