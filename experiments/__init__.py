"""Experiments with decayax: one file, one question. See README.md."""
