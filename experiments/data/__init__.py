"""Data sets: real ones that packages carry, a user's own copies, generated ones."""
