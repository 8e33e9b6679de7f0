"""The schema's history, run by Alembic when a file is new or older than the program."""
