"""Faults that the tests must find: `make mutants`."""

from mutants.of_experiments import MUTANTS as OF_EXPERIMENTS
from mutants.of_library import MUTANTS as OF_LIBRARY


MUTANTS = (*OF_LIBRARY, *OF_EXPERIMENTS)
