"""The embedded default: one SQLite file, one process that owns it, one commit for all that came in since the last."""
