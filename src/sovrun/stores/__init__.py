"""The back ends: one outside thing each."""
