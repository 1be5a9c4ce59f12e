"""From candidates that were measured to the answer, with what could not be decided."""

from collections.abc import Sequence

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
# A norm with ε is invariant up to ε / variance. With more, it was no ε.
MAX_DEVIATION = 0.1
# A sensitivity below is worth a note: nearly invariant, such as a soft cap.
NEAR = 1e-3
NOISE = 1e-12  # singular values below it are printed as this
RESIDUAL = 1e-6  # of a condition of the program


def decide(problem: Problem, measured: Measured, reading: Reading) -> ScaleSymmetries:
    """The answer for every unit."""
    found, names = measured.candidates, _unit_names(problem)
    kinds = np.full(len(names), SEEN, object)
    deviation = np.full(len(names), np.nan)
    dead = np.flatnonzero(found.dead)
    invariant = np.flatnonzero(found.invariant)
    is_dead, _ = _confirmed(measured, "dead")
    kinds[dead[is_dead]] = DEAD
    holds, changes = _confirmed(measured, "invariant")
    kinds[invariant[holds]] = INVARIANT
    deviation[invariant[holds]] = changes[holds]
    keeps, changes = _confirmed(measured, "groups")
    groups = found.groups[keeps]
    for vector, change in zip(groups, changes[keeps], strict=True):
        members = vector != 0
        kinds[members] = JOINT
        deviation[members] = np.fmax(deviation[members], change)
    vectors = np.concatenate([np.eye(len(names))[kinds == INVARIANT], groups])
    by_program = _fulfilled(vectors, reading.conditions, kinds == DEAD)
    proven = ~np.any(vectors[~by_program] != 0, axis=0) & np.any(vectors, axis=0)
    leaves = [
        LeafSymmetry(
            path=names[unit],
            kind=str(kinds[unit]),
            axes=_axes(measured, problem, unit) if kinds[unit] == INVARIANT else (),
            parameter=parameter.path_str(),
            slice=parameter.slice(unit),
            shape=parameter.unit_shape(),
            sensitivity=float(found.sensitivity[unit]),
            deviation=float(deviation[unit]),
            confirmed="probes and program" if proven[unit] else "probes",
            cause=reading.causes.get(unit, "") if kinds[unit] == INVARIANT else "",
        )
        for parameter in problem.known()
        for unit in parameter.units()
    ]
    lost = [names[i] for i in [*dead[~is_dead], *invariant[~holds]]]
    notes = _notes(problem, measured, leaves, lost, int(np.sum(~keeps)))
    notes += _comparison(names, vectors, by_program, reading, kinds == DEAD)
    as_dicts = [
        {names[i]: float(a) for i, a in enumerate(vector) if a} for vector in groups
    ]
    return ScaleSymmetries(tuple(leaves), tuple(as_dicts), tuple(notes))


def _unit_names(problem: Problem) -> list[str]:
    return [p.name(unit - p.first) for p in problem.known() for unit in p.units()]


def _axes(measured: Measured, problem: Problem, unit: int) -> tuple[int, ...]:
    rows = zip(problem.known(), measured.probes.elementwise, strict=True)
    parameter, elementwise = next(x for x in rows if unit in x[0].units())
    index = unit - parameter.first
    return invariant_axes(elementwise, parameter, index, measured.tolerance)


def _confirmed(measured: Measured, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether each candidate holds for a finite scaling, and its deviation with ε."""
    limit = NARROW_CONFIRMED if measured.narrow else CONFIRMED
    exact, real = np.moveaxis(measured.changes[kind], -1, 0)
    # Where a norm of almost nothing is taken, its ε or rounding errors are all.
    holds = (exact.min(axis=0) <= limit) & (real.min(axis=0) <= MAX_DEVIATION)
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
    problem: Problem,
    measured: Measured,
    leaves: Sequence[LeafSymmetry],
    lost: Sequence[str],
    lost_groups: int,
) -> list[str]:
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
    if lost:
        notes.append(
            f"undecided: {summarize_paths(lost)} has the derivative 0 along its scale, "
            "but the outputs change with it: the function rounds, or a constant below "
            "1e-3 is not the ε of a norm; counted as seen"
        )
    if lost_groups:
        notes.append(f"undecided: a finite scaling refutes {lost_groups} groups")
    near = [
        x for x in leaves if x.kind not in (INVARIANT, DEAD) and x.sensitivity < NEAR
    ]
    if near:
        closest = min(near, key=lambda x: x.sensitivity)
        notes.append(
            f"nearly invariant: {summarize_paths(x.path for x in near)}, with a "
            f"sensitivity of {closest.sensitivity:.0e} or more"
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
