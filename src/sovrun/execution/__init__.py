"""The command boundary: the only way from a run, a person or a program to an effect outside."""
