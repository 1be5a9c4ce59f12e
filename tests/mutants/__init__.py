"""Faults that the tests must find: `make mutants`."""
