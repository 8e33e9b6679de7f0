"""What keeping a history means: the protocol of a store, its value types, and the in-memory reference."""
