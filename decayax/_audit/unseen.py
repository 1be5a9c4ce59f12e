"""Findings about decay that the model does not see, from its scale symmetries."""

from collections.abc import Mapping, Sequence

import numpy as np

from decayax._audit import causes
from decayax._audit.checks import decays
from decayax._audit.finding import Evidence, Finding
from decayax._audit.modes import GROWTH, NONE, SCALE_DEPENDENT, UNEVEN, UNIFORM
from decayax._core.paths import summarize_paths
from decayax._core.symmetry import by_parameter, DEAD, INVARIANT, Slices, Symmetries


# Not serious: most networks with normalization decay invariant kernels on purpose.
UNSEEN = Finding(
    kind="unseen scale decays",
    serious=False,
    text="the model does not see the scale of {paths}. Their decay, at a rate of "
    "{rates} per step, does not change the function. It raises the effective learning "
    "rate.",
    hint="To exclude them, pass "
    "mask=dx.masks.invert(dx.masks.scale_invariant(symmetries)).",
)
UNSEEN_TOGETHER = UNSEEN._replace(
    text="the model does not see the common scale of {paths}. Their decay, at rates of "
    "{rates} per step in proportion to the exponents, does not change the function. It "
    "raises the effective learning rate.",
    hint="A decay of only some of them does change the function.",
)
DEAD_DECAY = Finding(
    kind="dead parameters decay",
    serious=False,
    text="the model does not depend on {paths}. Without a gradient, their decay only "
    "shrinks them to 0.",
    hint="Exclude them by mask=dx.masks.by_symmetry(symmetries, dead=False), or remove "
    "them from the model.",
)
UNSEEN_KINDS = {UNSEEN.kind, DEAD_DECAY.kind}
RATES_RTOL = 0.01  # up to which measured rates fit the exponents of a symmetry


def find_unseen(evidence: Sequence[Evidence], symmetries: Symmetries) -> list[Finding]:
    """The findings about invariant, joint and dead parameters that decay."""
    slices = by_parameter(symmetries)
    invariant: dict[str, float] = {}
    dead: dict[str, float] = {}
    rates: dict[str, float] = {}  # of all slices, if each shrinks as a whole or stays
    for each in evidence:
        leaf, parts = each.leaf, slices[each.leaf.path]
        if _shrinks_as_a_whole(each):
            invariant |= dict.fromkeys(_paths(parts, INVARIANT), leaf.rate)
        if _shrinks_as_a_whole(each) or leaf.mode == NONE:
            rates |= dict.fromkeys([part.path for part in parts], leaf.rate)
        # With uneven rates, a mask may exclude the dead slices.
        is_dead = all(part.kind == DEAD for part in parts)
        if decays(leaf) and leaf.mode != GROWTH and (is_dead or leaf.mode != UNEVEN):
            dead |= dict.fromkeys(_paths(parts, DEAD), leaf.rate)
    found = [(UNSEEN, invariant), (DEAD_DECAY, dead)]
    found[1:1] = [(UNSEEN_TOGETHER, joint) for joint in _joint(rates, symmetries)]
    return [_about(finding, affected) for finding, affected in found if affected]


def _shrinks_as_a_whole(evidence: Evidence) -> bool:
    """Whether the decay is the leaf times a number."""
    leaf, cause = evidence.leaf, evidence.cause
    rescaled = cause in (causes.TRUST_RATIO, causes.NORM)
    return leaf.mode == UNIFORM or (leaf.mode == SCALE_DEPENDENT and rescaled)


def _paths(parts: Slices, kind: str) -> list[str]:
    """The slices of a kind; the parameter if all are."""
    paths = [part.path for part in parts if part.kind == kind]
    return [parts[0].parameter] if len(paths) == len(parts) else paths


def _joint(
    rates: Mapping[str, float], symmetries: Symmetries
) -> list[dict[str, float]]:
    """The rates of joint parameters whose decay moves along their symmetries.

    A step of decay multiplies the parameter l by 1 - r_l. This is a symmetry if
    log(1 - r) is a combination of the groups.
    """
    found = []
    for groups in _connected(symmetries.groups):
        named = {path for group in groups for path in group}
        paths = [path for path in rates if path in named and rates[path] < 1.0]
        if len(paths) < len(named):  # a rate is not known, or has no logarithm
            continue
        moved = np.log1p([-rates[path] for path in paths])
        rows = np.array([[group.get(path, 0.0) for path in paths] for group in groups])
        t = np.linalg.lstsq(rows.T, moved, rcond=None)[0]
        differs = np.abs(rows.T @ t - moved) > RATES_RTOL * np.max(np.abs(moved))
        if moved.any() and not differs.any():
            found.append({path: rates[path] for path in paths if rates[path]})
    return found


def _connected(
    groups: Sequence[Mapping[str, float]],
) -> list[list[Mapping[str, float]]]:
    """The groups in sets that have no parameter in common."""
    sets: list[list[Mapping[str, float]]] = []
    for group in groups:
        touched = [s for s in sets if any(group.keys() & other.keys() for other in s)]
        sets = [s for s in sets if s not in touched]
        sets.append([group, *(other for s in touched for other in s)])
    return sets


def _about(finding: Finding, rates: Mapping[str, float]) -> Finding:
    low, high = min(rates.values()), max(rates.values())
    numbers = f"{high:.3g}" if low > 0.99 * high else f"{low:.3g} to {high:.3g}"
    text = finding.text.format(paths=summarize_paths(rates), rates=numbers)
    return finding._replace(text=text, paths=tuple(rates))
