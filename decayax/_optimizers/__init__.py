"""The matched pairs: each optimizer is a chain of the transforms."""
