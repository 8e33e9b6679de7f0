"""What breaks things on purpose: a seeded simulator of stores, workers and faults, and an independent checker."""
