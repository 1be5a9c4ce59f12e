"""The studies: one file, one question."""
