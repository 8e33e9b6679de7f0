"""A store that another process owns, reached through its Unix socket."""
