"""Experiments with decayax: each study is one file with one question. See README.md."""
