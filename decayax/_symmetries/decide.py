"""From candidates that were measured to the answer, with what could not be decided."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from decayax._core.paths import summarize_paths
from decayax._core.symmetry import DEAD, INVARIANT, JOINT, SEEN
from decayax._symmetries.classify import invariant_axes
from decayax._symmetries.degrees import Reading
from decayax._symmetries.measured import Measured
from decayax._symmetries.problem import Problem
from decayax._symmetries.report import LeafSymmetry, ScaleSymmetries


# Without ε, the outputs change by rounding errors only. Norms can amplify them.
CONFIRMED, NARROW_CONFIRMED = 1e-6, 1e-2
# Large factors make large rounding errors in a small difference of large numbers.
FAR_CONFIRMED = 1e-2
DEAD_CONFIRMED = 1e-7
MAX_RATIO = 50.0  # of exponents: those of real networks are 1, 2, 4
# The ε of a norm matters if the outputs change by more than this part.
LARGE_DEVIATION = 0.1
# A sensitivity below is worth a note: nearly invariant, such as a soft cap.
NEAR = 1e-3
NOISE = 1e-12  # singular values below it are printed as this
RESIDUAL = 1e-6  # of a condition of the program


class _Decision(NamedTuple):
    kinds: np.ndarray  # [units]
    deviation: np.ndarray  # [units]
    groups: np.ndarray  # [groups, units]: the confirmed ones
    lost: Sequence[int]  # units without a derivative whose outputs change
    lost_groups: int


def decide(problem: Problem, measured: Measured, reading: Reading) -> ScaleSymmetries:
    """The answer for every unit."""
    names = [name for p in problem.known() for name in p.names()]
    decision = _confirm(measured)
    kinds, dead = decision.kinds, decision.kinds == DEAD
    alone = np.eye(len(names))[kinds == INVARIANT]
    vectors = np.concatenate([alone, decision.groups])
    by_program = _fulfilled(vectors, reading.conditions, dead)
    unproven = np.any(vectors[~by_program] != 0, axis=0)
    leaves = [
        LeafSymmetry(
            path=names[unit],
            kind=str(kinds[unit]),
            axes=_axes(measured, problem, unit) if kinds[unit] == INVARIANT else (),
            parameter=parameter.path_str(),
            slice=parameter.slice(unit),
            shape=parameter.unit_shape(),
            sensitivity=float(measured.candidates.sensitivity[unit]),
            deviation=float(decision.deviation[unit]),
            confirmed=_ways(kinds[unit], unproven[unit]),
            cause=reading.causes.get(unit, "") if kinds[unit] == INVARIANT else "",
        )
        for parameter in problem.known()
        for unit in parameter.units()
    ]
    notes = _notes(problem, measured, leaves) + _doubts(measured, leaves, decision)
    notes += _comparison(names, vectors, by_program, reading, dead)
    groups = [
        {names[i]: float(a) for i, a in enumerate(vector) if a}
        for vector in decision.groups
    ]
    return ScaleSymmetries(tuple(leaves), tuple(groups), tuple(notes))


def _confirm(measured: Measured) -> _Decision:
    """Keep the candidates that hold for a finite scaling."""
    found = measured.candidates
    kinds = np.full(len(found.flat), SEEN, object)
    deviation = np.full(len(kinds), np.nan)
    flat, invariant = np.flatnonzero(found.flat), np.flatnonzero(found.invariant)
    holds, changes = _confirmed(measured, "invariant")
    kinds[invariant[holds]] = INVARIANT
    deviation[invariant[holds]] = changes[holds]
    # If only the signs or the order of the weights matter, there is no gradient, too.
    holds, changes = _confirmed(measured, "flat")
    # All points: at one, the numbers that replace it may have the signs that matter.
    replaced = measured.changes["dead"][..., :2]
    is_dead = holds & np.all(replaced <= DEAD_CONFIRMED, axis=(0, 2))
    kinds[flat[holds]] = np.where(is_dead, DEAD, INVARIANT)[holds]
    deviation[flat[holds]] = np.where(is_dead, np.nan, changes)[holds]
    keeps, changes = _confirmed(measured, "groups")
    keeps &= np.array([_is_simple(vector) for vector in found.groups], bool)
    for vector, change in zip(found.groups[keeps], changes[keeps], strict=True):
        members = vector != 0
        kinds[members] = JOINT
        deviation[members] = np.fmax(deviation[members], change)
    lost = [int(u) for u in [*flat, *invariant] if kinds[u] == SEEN]
    return _Decision(
        kinds, deviation, found.groups[keeps], lost, lost_groups=int(np.sum(~keeps))
    )


def _is_simple(exponents: np.ndarray) -> bool:
    """Whether no exponent is large: then it is a rounding error of a smaller one."""
    entries = np.abs(exponents[exponents != 0])
    return bool(entries.max() <= MAX_RATIO * entries.min())


def _ways(kind: str, unproven: bool) -> str:
    if kind in (INVARIANT, JOINT) and not unproven:
        return "probes and program"
    return "probes"


def _axes(measured: Measured, problem: Problem, unit: int) -> tuple[int, ...]:
    rows = zip(problem.known(), measured.probes.elementwise, strict=True)
    parameter, elementwise = next(x for x in rows if unit in x[0].units())
    index = unit - parameter.first
    return invariant_axes(elementwise, parameter, index, measured.tolerance)


def _confirmed(measured: Measured, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether each candidate holds for a finite scaling, and its deviation with ε."""
    limit = NARROW_CONFIRMED if measured.narrow else CONFIRMED
    near, far, real = np.moveaxis(measured.changes[kind], -1, 0)
    # A norm of almost nothing consists of rounding errors: one good point is enough.
    holds = (near.min(axis=0) <= limit) & (far.min(axis=0) <= FAR_CONFIRMED)
    return holds, real.max(axis=0)


def _fulfilled(
    vectors: np.ndarray, conditions: np.ndarray, dead: np.ndarray
) -> np.ndarray:
    """Whether the program shows each symmetry, up to the exponents of dead units."""
    if not len(conditions):
        return np.ones(len(vectors), bool)
    left = vectors @ conditions.T
    if dead.any():
        free = conditions[:, dead]
        left = left - left @ np.linalg.pinv(free.T) @ free.T
    return np.abs(left).max(axis=1, initial=0.0) <= RESIDUAL


def _comparison(
    names: Sequence[str],
    vectors: np.ndarray,
    by_program: np.ndarray,
    reading: Reading,
    dead: np.ndarray,
) -> list[str]:
    """Where only one of the two ways speaks."""
    _, values, directions = np.linalg.svd(
        np.concatenate([reading.conditions, np.zeros((1, len(names)))])
    )
    own = directions[int(np.sum(values > RESIDUAL)) :] * ~dead
    more = own - own @ np.linalg.pinv(vectors) @ vectors if len(vectors) else own
    extra = np.flatnonzero(np.abs(more).max(axis=0, initial=0.0) > RESIDUAL)
    if len(extra):
        shown = summarize_paths([names[int(i)] for i in extra])
        return [
            f"undecided: the program shows a symmetry of {shown}, the probes do not"
        ]
    if not len(vectors):
        return ["the operations of the program show no symmetry either"]
    if by_program.all():
        return ["the operations of the program show the same symmetries"]
    alone = np.flatnonzero(np.any(vectors[~by_program] != 0, axis=0))
    shown = summarize_paths([names[int(i)] for i in alone])
    return [f"only the probes show the symmetries of {shown}"]


def _notes(
    problem: Problem, measured: Measured, leaves: Sequence[LeafSymmetry]
) -> list[str]:
    """How the answer was found."""
    rows, (last, null) = len(measured.probes.products), measured.candidates.gap
    notes = [
        f"{rows} vector-Jacobian products in float64 at random parameters, without the "
        "ε of norms"
    ]
    if len(measured.candidates.groups):
        notes[0] += (
            f"; singular values: at most {max(null, NOISE):.0e} for the groups, at "
            f"least {last:.0e} for all else"
        )
    large = [x.path for x in leaves if x.deviation > LARGE_DEVIATION]
    if large:
        notes.append(
            f"the ε of a norm matters for {summarize_paths(large)}: see the deviation"
        )
    if measured.narrow:
        names = ", ".join(sorted(measured.narrow))
        notes.append(f"not in float64: {names}; tolerance {measured.tolerance:g}")
    if problem.draws:
        notes.append(
            "the function draws random numbers (dropout?): the answer holds for one "
            "draw; switch dropout off"
        )
    return notes


def _doubts(
    measured: Measured, leaves: Sequence[LeafSymmetry], decision: _Decision
) -> list[str]:
    """What could not be decided."""
    notes = []
    if decision.lost:
        lost = summarize_paths(leaves[unit].path for unit in decision.lost)
        notes.append(
            f"undecided, counted as seen: {lost}. The derivative along the scale is 0, "
            "but the outputs change with a large factor: the function rounds or clips, "
            "or is constant near the parameters"
        )
    if decision.lost_groups:
        notes.append(
            f"undecided: {decision.lost_groups} groups hold near the parameters only, "
            "and not for large factors"
        )
    near = [
        x
        for x in leaves
        if x.kind not in (INVARIANT, DEAD) and measured.tolerance < x.sensitivity < NEAR
    ]
    if near:
        closest = min(near, key=lambda x: x.sensitivity)
        notes.append(
            f"nearly invariant: {summarize_paths(x.path for x in near)}, with a "
            f"sensitivity of {closest.sensitivity:.0e} or more"
        )
    return notes
