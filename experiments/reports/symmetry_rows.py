"""The rows of the tables of `symmetry`, and the limits that the study fixed."""

import math
from typing import NamedTuple

import numpy as np

from experiments.statistics import Estimate, estimate, LEVEL


# The numbers of the header of the study.
BOUNDS = {"angle": 0.10, "norm": 0.05, "starts": 0.10}
MEASURES = tuple(BOUNDS)
LOGITS_LIMIT, STEP_LIMIT, EXACT_LIMIT, SHARE = 1e-3, 1e-2, 1e-6, 0.1
# Norms of fewer weights fluctuate too much for a comparison of the kinds.
LEAST_WEIGHTS = 64
INVARIANT, OTHER, KINDS = "invariant", "other", ("invariant", "joint", "seen", "dead")
NONE, DECAY, EXACT, SGD = "no decay", "decay", "matched rate and β", "SGD"
EQUAL, DIFFERENT, UNCLEAR = "equal", "not equal", "unclear"
STATISTICS = ("weight_norm", "equilibrium_norm", "angle")  # of dx.decay_stats
VISIBLE = 0.01  # change of the logits


class Equilibrium(NamedTuple):
    """(a): the deviation |ln(measured/predicted)| of the two groups of leaves."""

    setting: str
    measure: str
    invariant: float  # median
    span: tuple[float, float]  # of the ratio, over all leaves and runs
    other: float
    other_span: tuple[float, float]
    difference: Estimate  # other - invariant, paired by seed
    p_holm: float = 1.0

    @property
    def holds(self) -> bool:
        """Whether invariant leaves are as predicted."""
        return self.invariant < BOUNDS[self.measure]

    @property
    def is_clear(self) -> bool:
        """Whether other leaves deviate clearly more."""
        return self.difference.low > 0 and self.p_holm < LEVEL

    @property
    def is_reversed(self) -> bool:
        """Whether invariant leaves deviate clearly more."""
        return self.difference.high < 0 and self.p_holm < LEVEL


class Scaled(NamedTuple):
    """(b): the changes if leaves are multiplied by 1/2."""

    network: str
    what: str
    logits: float
    logits_max: float
    limit_max: float  # without ε
    loss: float
    steps: tuple[tuple[float, float, float], ...]  # SGD, Adam: median, lowest, highest

    @property
    def follows(self) -> bool:
        """Whether all steps are multiplied by 1/c² = 4 (SGD) and by 1/c = 2 (Adam)."""
        pairs = zip(self.steps, (4.0, 2.0), strict=True)
        return all(
            abs(x / predicted - 1) < STEP_LIMIT
            for step, predicted in pairs
            for x in step
        )


class Training(NamedTuple):
    """(c): an arm against decay on the same leaves."""

    network: str
    base: str
    leaves: str
    arm: str
    difference: Estimate  # of the final loss
    shares: np.ndarray  # gap to decay / effect of decay, by seed
    p_holm: float = 1.0

    @property
    def setting(self) -> str:
        """Network and base in words."""
        return f"{self.network} with {self.base}"

    @property
    def is_exact(self) -> bool:
        """Whether the compensation is exact for invariant leaves."""
        return self.arm == EXACT or (self.base == SGD and self.matched)

    @property
    def matched(self) -> bool:
        """Whether this arm compensates, and is not the run without decay."""
        return self.arm != NONE

    @property
    def share(self) -> tuple[float, float, float]:
        """The geometric mean of the shares, and its interval."""
        found = estimate(np.log(np.maximum(self.shares, 1e-12)))
        return math.exp(found.mean), math.exp(found.low), _exp(found.high)

    @property
    def verdict(self) -> str:
        """Whether the gap is below a tenth of the effect."""
        if not np.isfinite(self.shares).all():
            return f"{DIFFERENT} (some runs diverge)"
        _, low, high = self.share
        return EQUAL if high < SHARE else DIFFERENT if low > SHARE else UNCLEAR


class Ratio(NamedTuple):
    """(a): measured / predicted of all leaves of a kind, whatever their size."""

    setting: str
    kind: str
    angle: tuple[float, float, float]  # median, lowest, highest
    norm: tuple[float, float, float]
    free: tuple[float, float, float] | None  # norm / √(nγ/2λ), n weights; for AdamW


class SymmetryNumbers(NamedTuple):
    """All numbers of the report."""

    kinds: list[tuple[str, ...]]
    equilibria: list[Equilibrium]
    scaled: list[Scaled]
    training: list[Training]
    exact: list[tuple[str, str, float]]  # network, base, largest relative difference
    ratios: list[Ratio]
    compared: list[tuple[str, int, int]]  # network, numbers of leaves that (a) compares
    # setting, invariant leaf, median ratio of its angle and of its norm
    farthest: list[tuple[str, str, float, float]]
    visible: list[tuple[str, float]]  # network, the largest c at which ε is visible


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
