"""Faults that the tests must find: `make mutants`."""

from mutants.of_budget import MUTANTS as OF_BUDGET
from mutants.of_catalogue import MUTANTS as OF_CATALOGUE
from mutants.of_experiments import MUTANTS as OF_EXPERIMENTS
from mutants.of_library import MUTANTS as OF_LIBRARY
from mutants.of_symmetries import MUTANTS as OF_SYMMETRIES


MUTANTS = (
    *OF_LIBRARY,
    *OF_CATALOGUE,
    *OF_SYMMETRIES,
    *OF_BUDGET,
    *OF_EXPERIMENTS,
)
