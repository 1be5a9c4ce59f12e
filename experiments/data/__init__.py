"""Data sets: from packages, from the user's own files, and generated ones."""
