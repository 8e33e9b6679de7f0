"""A DAG as a value: its model, its document forms, its validation."""
