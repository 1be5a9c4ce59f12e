"""What the readings mean: the mode of each leaf, and findings in words with cures."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from decayax._audit.clues import Clues
from decayax._audit.leaf import LeafAudit
from decayax._audit.readings import Reading, Setting
from decayax._core.paths import summarize_paths


NONE, UNIFORM, SCALE = "none", "uniform", "scale-dependent"
GRADIENT, GROWTH = "gradient-dependent", "growth"
SAME = 0.1  # rates that differ by less are the same
SHARE = 0.1  # of the weights of a leaf: fewer may differ


class Finding(NamedTuple):
    """Something to know about an optimizer's decay."""

    kind: str
    serious: bool  # whether `check` raises
    text: str
    hint: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}: {self.text} {self.hint}"


def mode_of(main: Setting, readings: dict[Setting, Reading], elementwise: bool) -> str:
    """The most serious mode that holds: growth, by gradients, by size, uniform, none.

    Args:
        main: the setting that is reported.
        readings: of one leaf.
        elementwise: whether each weight's update is its own, so that the spread of
            single weights is the optimizer's.
    """
    if not any(reading.significant for reading in readings.values()):
        return NONE
    if readings[main].significant and _grows(readings.values()):
        return GROWTH
    # The gradients of another seed are no others to an optimizer that mixes weights,
    # but for chance: in a leaf of four weights their norm is quite another.
    plain = [
        reading
        for setting, reading in readings.items()
        if setting.is_plain and (elementwise or setting.seed == main.seed)
    ]
    sizes = [r for setting, r in readings.items() if setting[:2] == main[:2]]
    if not alike(plain) or (elementwise and not _each_alike(plain)):
        return GRADIENT
    return UNIFORM if alike(sizes) else SCALE


def alike(readings: Sequence[Reading]) -> bool:
    """Whether any two rates are the same, but for their noise."""
    return all(
        abs(a.rate - b.rate)
        <= max(SAME * max(abs(a.rate), abs(b.rate)), a.noise + b.noise)
        for a, b in itertools.combinations(readings, 2)
    )


def _grows(readings: Iterable[Reading]) -> bool:
    """Whether the rates that are no noise are negative, all of them."""
    rates = [reading.rate for reading in readings if reading.significant]
    return max(rates) < 0.0


def _each_alike(readings: Sequence[Reading]) -> bool:
    """Whether single weights keep their rates from one gradient sequence to another.

    They may differ from each other: then it is the weights, not the gradients.
    """
    for a, b in itertools.combinations(readings, 2):
        if a.jumps or b.jumps:
            continue
        gap = np.abs(a.each - b.each)
        size = np.maximum(np.abs(a.each), np.abs(b.each))
        if np.nanmean(gap > SAME * size + a.noise + b.noise) > SHARE:
            return False
    return True


# --- findings -----------------------------------------------------------------------


def not_auditable(reason: str) -> Finding:
    """The finding for an optimizer that cannot be followed."""
    return Finding(
        "not auditable",
        True,
        f"the optimizer needs what an audit cannot make up ({reason}).",
        "Give it as extra_args=.",
        (),
    )


class Check(NamedTuple):
    """What to look for in each decaying leaf, and what to say of those that have it."""

    kind: str
    serious: bool
    found: Callable[[LeafAudit], bool]
    text: Callable[[str, list[LeafAudit]], str]  # paths in words, leaves -> text
    hint: str


CHECKS = (
    Check(
        "growth",
        True,
        lambda leaf: leaf.mode == GROWTH,
        lambda which, leaves: (
            f"{which} grow by {_range(leaves)}: the decay has the wrong sign."
        ),
        "After the learning rate updates are negative: write dx.independent_decay "
        "there, or put the decay before the learning rate.",
    ),
    Check(
        "rate of 1 or more",
        True,
        lambda leaf: leaf.rate >= 1.0,
        lambda which, leaves: (
            f"{which} lose {_range(leaves)} of themselves in every step, which erases "
            "them or flips their sign."
        ),
        "Write a smaller weight_decay; a strength that is to be multiplied by the "
        "learning rate stands before it.",
    ),
    Check(
        "gradient-dependent",
        True,
        lambda leaf: leaf.mode == GRADIENT,
        lambda which, leaves: (
            f"the decay of {which} depends on the gradients: {_over_scales(leaves[0])}."
        ),
        "An L2 term passes through the preconditioner; for the same decay everywhere "
        "write dx.decoupled_decay after it (dx.adamw, dx.rmspropw).",
    ),
    Check(
        "lost in rounding",
        True,
        lambda leaf: leaf.survives is not None and not leaf.survives >= 0.5,
        lambda which, leaves: (
            f"of the decay of {which} about {_least(leaves)} survives in "
            f"{', '.join(sorted({leaf.dtype for leaf in leaves}))}."
        ),
        "A weight times 1 - rate rounds to itself: wrap the optimizer in "
        "dx.with_compensation or dx.with_stochastic_rounding.",
    ),
    Check(
        "decay without gradient",
        True,
        lambda leaf: not leaf.answers,
        lambda which, leaves: f"{which} get no gradient and decay all the same.",
        "Give the mask False there, or freeze behind the decay.",
    ),
    Check(
        "biases or norms decay",
        False,
        lambda leaf: leaf.role in ("bias", "norm_scale"),
        lambda which, leaves: f"{which} decay, which are biases or norm scales.",
        "Write mask=dx.masks.no_bias_or_norm, unless it is meant.",
    ),
    Check(
        "scale-dependent",
        False,
        lambda leaf: leaf.mode == SCALE,
        lambda which, leaves: (
            f"the decay of {which} depends on the size of the weights."
        ),
        "A trust ratio rescales it with the update.",
    ),
)


def find(
    leaves: Sequence[LeafAudit], given: Clues, weight_decay: float | None
) -> tuple[Finding, ...]:
    """All findings, most serious first."""
    decaying = [leaf for leaf in leaves if leaf.mode != NONE]
    found = []
    for check in CHECKS:
        if hit := [leaf for leaf in decaying if check.found(leaf)]:
            paths = _paths(hit)
            text = check.text(summarize_paths(paths), hit)
            found.append(Finding(check.kind, check.serious, text, check.hint, paths))
    strengths = [*given.strengths, *([weight_decay] if weight_decay else [])]
    if not decaying:
        found += _of_no_decay(leaves, strengths)
    elif given.together > 1:
        found.append(_two_decays(decaying, given))
    return tuple(sorted(found, key=lambda finding: not finding.serious))


def _of_no_decay(
    leaves: Sequence[LeafAudit], strengths: Sequence[float]
) -> list[Finding]:
    """What it may mean that no parameter decays."""
    if leaves and not any(leaf.answers for leaf in leaves):
        return [
            Finding(
                "no step",
                False,
                "no weight moved in all the steps, so nothing is known.",
                "Follow more steps=, or look at the learning rate.",
                _paths(leaves),
            )
        ]
    if leaves and strengths:
        return [
            Finding(
                "nothing decays",
                True,
                f"a weight decay was given ({_numbers(strengths)}), and no parameter "
                "decays.",
                "Look at the mask with dx.masks.describe.",
                (),
            )
        ]
    return []


def _two_decays(decaying: Sequence[LeafAudit], given: Clues) -> Finding:
    return Finding(
        "two decays at once",
        not given.masked,
        f"the optimizer holds {given.together} decays ({_numbers(given.strengths)}).",
        "Remove one: optax.adamw has a weight_decay of 1e-4 of its own.",
        _paths(decaying),
    )


def _paths(leaves: Sequence[LeafAudit]) -> tuple[str, ...]:
    return tuple(leaf.path for leaf in leaves)


def _range(leaves: list[LeafAudit]) -> str:
    """The size of the rates."""
    rates = [abs(leaf.rate) for leaf in leaves]
    low, high = min(rates), max(rates)
    return f"{high:.3g}" if low > 0.99 * high else f"{low:.3g} to {high:.3g}"


def _over_scales(leaf: LeafAudit) -> str:
    rates = ", ".join(
        f"{rate:.3g} at |g| = {scale:g}" for scale, rate in leaf.by_gradient_scale
    )
    return f"of {leaf.path} {rates}"


def _least(leaves: list[LeafAudit]) -> str:
    shares = [leaf.survives or 0.0 for leaf in leaves]
    known = [share for share in shares if np.isfinite(share)]
    return f"{max(min(known, default=0.0), 0.0):.0%}"


def _numbers(strengths: Sequence[float]) -> str:
    return ", ".join("a schedule" if np.isnan(s) else f"{s:g}" for s in strengths)
