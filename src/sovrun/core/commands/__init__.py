"""Commands: what may be done outside, how one is known again, and how its outcome becomes known."""
