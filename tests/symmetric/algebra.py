"""Linear forms of exponents with fractions, and the solutions of their equations."""

from collections.abc import Iterable
from fractions import Fraction

from symmetric.model import Exponents


Form = dict[str, Fraction]


def combine(one: Form, other: Form, factor: int | Fraction) -> Form:
    """One + factor · other."""
    total = {k: one.get(k, 0) + factor * other.get(k, 0) for k in one | other}
    return {name: Fraction(value) for name, value in total.items() if value}


def null_space(
    zero: Iterable[Form], leaves: Iterable[str]
) -> tuple[list[str], list[Exponents]]:
    """All solutions of form = 0: leaves that are free alone, a basis of the others."""
    solved: dict[str, Form] = {}  # leaf -> its form in the free leaves
    for form in zero:
        form = substituted(form, solved)
        if not form:
            continue
        pivot = next(iter(form))
        value = {k: -v / form[pivot] for k, v in form.items() if k != pivot}
        solved = {k: substituted(v, {pivot: value}) for k, v in solved.items()}
        solved[pivot] = value
    alone, groups = [], []
    for free in leaves:
        if free in solved:
            continue
        group = {name: float(v[free]) for name, v in solved.items() if free in v}
        if group:
            groups.append({free: 1.0} | group)
        else:
            alone.append(free)
    return alone, groups


def substituted(form: Form, values: dict[str, Form]) -> Form:
    total: Form = {}
    for name, factor in form.items():
        total = combine(total, values.get(name, {name: Fraction(1)}), factor)
    return total


def equations(
    alone: Iterable[str], groups: Iterable[Exponents], leaves: list[str]
) -> list[Form]:
    """The inverse of `null_space`: forms that are zero on exactly these solutions."""
    vectors = [{name: 1.0} for name in alone] + list(groups)
    forms = [{k: Fraction(v) for k, v in vector.items()} for vector in vectors]
    zero, others = null_space(forms, leaves)
    exact = [
        {k: Fraction(v).limit_denominator(1000) for k, v in o.items()} for o in others
    ]
    return [{name: Fraction(1)} for name in zero] + exact
