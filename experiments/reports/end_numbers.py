"""The numbers of `end_of_training`: measured ratios against the predicted ones."""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments import steady_state
from experiments.end_optimizers import (
    DIRECTION,
    GRADIENT,
    NORM,
    SCHEDULES,
    WEIGHTED,
)
from experiments.engine.store import read_measurements
from experiments.statistics import Estimate, estimate
from experiments.steady_state import Course


LR_SCALED, CORRECTED = "lr-scaled", "corrected"
CONSTANT = "constant"  # the schedule without an end
INVARIANT = "invariant"
# The bounds of the verdicts; the header of the study states them.
MAX_DEVIATION = 0.10  # of the steady ratio, (a)
GROWTH = 1.5  # of the gradient's ratio, (b) and (c)
MAX_ERROR = 0.25  # of the last ratio, (d)
BEGIN = 0.25  # of the run; before, the norms have not forgotten the initial weights
DOMAIN = 0.05  # the theory's domain: the lag changes the ratio by less
DEPARTED = 0.90  # the ratio has left the steady one when it is below this part of it


class Setting(NamedTuple):
    """The runs of one base, schedule, decay and point."""

    base: str
    beta: float
    adaptive: bool
    schedule: str
    arm: str
    rate: float
    decay: float
    steps: int
    kinds: dict[str, str]  # by path of a matrix
    ratios: dict[str, np.ndarray]  # float64[seeds, segments, matrices]

    @property
    def name(self) -> str:
        """Base, schedule and decay."""
        return f"{self.base}, {self.schedule}, {self.arm}"

    @property
    def invariant(self) -> np.ndarray:
        """Which matrices are invariant."""
        return np.array([kind == INVARIANT for kind in self.kinds.values()])

    @property
    def segments(self) -> int:
        """The number of measured parts of a run."""
        return self.ratios[NORM].shape[1]

    @property
    def first(self) -> int:
        """The first segment that is compared."""
        return min(int(np.ceil(BEGIN * self.segments)), self.segments - 1)

    def strengths(self, is_invariant: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """γ_t and λ_t at every step; only invariant leaves have corrected decay."""
        progress = jnp.arange(self.steps, dtype=jnp.float32) / self.steps
        eta = np.asarray(SCHEDULES[self.schedule](progress, {}), np.float64)
        corrected = self.arm == CORRECTED and is_invariant
        return self.rate * eta, self.decay * (eta if corrected else np.ones_like(eta))

    def steady(self, is_invariant: bool = True) -> np.ndarray:
        """The steady ratio in each segment, root mean squares over its steps."""
        rates, decays = self.strengths(is_invariant)
        ratio = steady_state.steady_ratio(rates, decays, self.beta)
        return np.sqrt((ratio**2).reshape(self.segments, -1).mean(1))

    def course(self) -> Course:
        """The predicted norms of an invariant leaf."""
        return steady_state.course(*self.strengths(), self.beta, self.adaptive)


def read_settings(folder: Path, name: str) -> list[Setting]:
    """The settings of a measurement."""
    (stored,) = read_measurements(folder, name)
    kinds = zip(stored["paths"].tolist(), stored["kinds"].tolist(), strict=True)
    shared = {
        "base": stored["base"].item(),
        "beta": stored["beta"].item(),
        "adaptive": stored["adaptive"].item(),
        "steps": stored["steps"].item(),
        "kinds": dict(kinds),
    }
    found = []
    points = (stored[x].tolist() for x in ("schedules", "arms", "rates", "decays"))
    for number, (schedule, arm, rate, decay) in enumerate(zip(*points, strict=True)):
        ratios = {
            ratio: stored[ratio][number].astype(np.float64)
            for ratio in (GRADIENT, DIRECTION, WEIGHTED, NORM)
            if ratio in stored
        }
        ratios.setdefault(DIRECTION, ratios[WEIGHTED])  # D = 1
        found.append(
            Setting(
                schedule=schedule,
                arm=arm,
                rate=rate,
                decay=decay,
                ratios=ratios,
                **shared,
            )
        )
    return found


class Growth(NamedTuple):
    """The last over the first compared value, by matrix."""

    ratio: list[Estimate]  # of ‖g‖/‖θ‖, invariant matrices
    norm: list[Estimate]  # of ‖g‖, invariant matrices
    head: list[Estimate]  # of ‖g‖/‖θ‖, the other matrices


def growth_of(setting: Setting) -> Growth:
    """How much the gradients of a setting grow until the end."""
    invariant, first = setting.invariant, setting.first
    ratio = setting.ratios[GRADIENT]
    norm = ratio * setting.ratios[NORM]
    by_ratio, by_norm = (x[:, -1] / x[:, first] for x in (ratio, norm))
    return Growth(
        ratio=_by_matrix(by_ratio[:, invariant]),
        norm=_by_matrix(by_norm[:, invariant]),
        head=_by_matrix(by_ratio[:, ~invariant]),
    )


def _by_matrix(values: np.ndarray) -> list[Estimate]:
    """From [seeds, matrices]."""
    return [estimate(by_seed) for by_seed in values.T]


class Followed(NamedTuple):
    """How the measured ratios of a setting follow the predicted ones."""

    setting: Setting
    growth: Growth
    predicted_growth: float  # of ‖g‖/‖θ‖ of an invariant matrix
    # In the domain of the theory:
    deviation: Estimate  # of invariant matrices from the steady ratio
    head: Estimate  # that of the other matrices
    farther: Estimate  # the difference
    others: dict[str, np.ndarray]  # other ratios / the steady one, by invariant matrix
    last: list[Estimate]  # measured / predicted at the end, by invariant matrix
    departure: float  # part of the run after which the ratio stays below the steady one
    predicted_departure: float


def follow(setting: Setting) -> Followed:
    """Compare the ratios of a setting with the prediction."""
    invariant, first = setting.invariant, setting.first
    course, steady = setting.course(), setting.steady()
    lagging = course.ratio("direction", setting.segments)
    raw = course.ratio("gradient", setting.segments)
    domain = np.abs(lagging / steady - 1) <= DOMAIN
    domain[:first] = False
    measured = setting.ratios[WEIGHTED]
    relative = measured[..., invariant] / steady[:, None]
    others = measured[..., ~invariant] / setting.steady(is_invariant=False)[:, None]
    mine, head = (_deviation(x[:, domain]) for x in (relative, others))
    uncorrelated = {DIRECTION: 1.0}  # ‖u‖/‖θ‖ without the metric
    if not setting.adaptive:
        uncorrelated[GRADIENT] = np.sqrt(1 - setting.beta**2)
    return Followed(
        setting,
        growth=growth_of(setting),
        predicted_growth=float(raw[-1] / raw[first]),
        deviation=estimate(mine),
        head=estimate(head),
        farther=estimate(head - mine),
        others={
            name: _middle(setting.ratios[name][..., invariant], steady, domain) / factor
            for name, factor in uncorrelated.items()
        },
        last=_by_matrix(measured[:, -1, invariant] / lagging[-1]),
        departure=departure(np.median(relative, (0, 2))),
        predicted_departure=departure(lagging / steady),
    )


def _deviation(relative: np.ndarray) -> np.ndarray:
    """The median of |relative - 1| over segments and matrices, by seed."""
    if relative.shape[1] == 0:  # the run is too short for the theory
        return np.full(len(relative), np.nan)
    return np.median(np.abs(relative - 1), axis=(1, 2))


def _middle(ratio: np.ndarray, steady: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """The median over seeds and segments of a ratio over the steady one, by matrix."""
    if not domain.any():
        return np.full(ratio.shape[-1], np.nan)
    return np.median((ratio / steady[:, None])[:, domain], (0, 1))


def departure(relative: np.ndarray) -> float:
    """The part of the run after which a ratio stays below `DEPARTED`; 1 for never."""
    above = np.flatnonzero(relative >= DEPARTED)
    return float((above[-1] + 1) / len(relative)) if len(above) else 0.0
