"""The planted faults still fit the sources: each changes a program that compiles."""

import ast
from collections import Counter
from pathlib import Path

import pytest
from mutants import MUTANTS


ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.needs_checkout


def test_every_mutant_changes_the_program():
    for mutant in MUTANTS:
        source = (ROOT / mutant.file).read_text(encoding="utf-8")
        planted = ast.parse(mutant.planted(source))
        assert ast.dump(planted) != ast.dump(ast.parse(source)), mutant.name


def test_every_mutant_has_its_own_name_and_tests_that_exist():
    assert max(Counter(mutant.name for mutant in MUTANTS).values()) == 1
    for mutant in MUTANTS:
        for word in mutant.tests.split():
            if not word.startswith("-"):
                assert (ROOT / word.partition("::")[0]).exists(), mutant.name


def test_there_are_enough():
    assert len(MUTANTS) >= 120
