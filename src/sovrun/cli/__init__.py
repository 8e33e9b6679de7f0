"""The terminal: the same calls as every face, with exit codes that scripts can use."""
