"""One module per version of the schema; never edited after a release."""
