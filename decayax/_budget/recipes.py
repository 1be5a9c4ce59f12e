r"""Known training recipes, and what their weight decay amounts to.

The *rate* is the fraction of a weight that one step removes. At the peak it is

    lr-scaled      lr · λ             torch AdamW, optax
    independent    λ                  AdamW paper, big_vision
    L2 + momentum  ≈ lr · λ/(1 − μ)   torch SGD: the rate of its slow mode

``recipes.csv`` holds what a source states: strengths, batch, steps, schedules. Rates,
timescales and all other results are calculated from it. A schedule is a start and
pieces "shape end value", as multiples of the peak:

    0; linear 2000 1; cosine 600000 0.1

The learning rate rises to the peak in 2000 steps, and is a tenth of it at step 600 000.
A piece "constant" jumps to its value. A ``decay_schedule`` is the same for λ.
"""

import csv
import functools
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from decayax._budget.budget import budget
from decayax._budget.checks import as_number, whole
from decayax._budget.report import Budget
from decayax._core.table import aligned


__all__ = ["all", "find", "nearest", "table", "Recipe"]

# The part of the way to the value of a piece that is left, for x from 0 to 1.
SHAPES = {
    "constant": np.zeros_like,
    "linear": lambda x: 1.0 - x,
    "cosine": lambda x: 0.5 * (1.0 + np.cos(np.pi * x)),
}
HEADER = (
    "recipe|lr|λ|rate/step|steps|timescale|of the run|epochs|"
    "e-folds|init kept|last 20%|half younger than|known from"
)
ROW = (
    "{0.name}|{0.learning_rate:.3g}|{0.weight_decay:.3g}|{about}{0.rate:.2g}|{0.steps:,}|"
    "{0.timescale_steps:,.0f}|{0.timescale_fraction:.3g}|{0.epochs:.3g}|"
    "{0.e_folds:.3g}|{0.init_kept:.2g}|{0.last_fifth:.0%}|{half:.2f}|{0.sure}"
)


class Recipe(NamedTuple):
    """One training recipe: what its source states, and what follows from that.

    A number that is not known is NaN.

    Attributes:
        name: a short name.
        convention: "lr-scaled", "independent" or "L2 + momentum".
        learning_rate: the peak.
        momentum: μ of SGD; NaN for Adam.
        weight_decay: λ in the convention, at its largest.
        batch: samples per step, counted in ``unit``.
        samples: samples of one pass over the data.
        steps: the length of the run.
        schedule: multiples of the peak learning rate, as pieces.
        decay_schedule: multiples of λ, as pieces; "" if λ is constant.
        date: the month of the source, such as "2020-12".
        sure: "code" (the official code), "paper", "second-hand" or "derived".
        source: a link; ``remark`` says where the recipe differs from it.
    """

    name: str
    convention: str
    learning_rate: float
    momentum: float
    weight_decay: float
    batch: float
    unit: str
    samples: float
    steps: int
    schedule: str
    decay_schedule: str
    date: str
    sure: str
    source: str
    remark: str

    @property
    def rate(self) -> float:
        """The fraction of a weight that one step removes, at the peak."""
        lr = 1.0 if self.convention == "independent" else self.learning_rate
        slow = 1.0 - self.momentum if self.convention == "L2 + momentum" else 1.0
        return lr * self.weight_decay / slow

    @property
    def timescale_steps(self) -> float:
        """1/rate; inf without decay."""
        return 1.0 / self.rate if self.rate else math.inf

    @property
    def timescale_fraction(self) -> float:
        """The timescale as a fraction of the run; it may exceed 1."""
        return self.timescale_steps / self.steps

    @property
    def epochs(self) -> float:
        """The timescale in passes over the data; NaN if these are not known."""
        return self.timescale_steps * self.batch / self.samples

    @property
    def e_folds(self) -> float:
        """−Σ log(1 − rate_t): a weight without gradient shrinks by exp(−e_folds)."""
        return _budget(self).e_folds

    @property
    def init_kept(self) -> float:
        """The fraction of a decayed initial weight that is left at the end."""
        return _budget(self).init

    @property
    def last_fifth(self) -> float:
        """The share of the final weights that is from the last 20 % of the steps."""
        return 1.0 - float(_budget(self).left[round(0.8 * self.steps)])

    @property
    def half_age(self) -> float:
        """Half of the weights that are not initial is from so many last steps."""
        return _budget(self).half_age

    def __str__(self) -> str:
        known = "" if math.isnan(self.epochs) else f"{self.epochs:.3g} epochs, "
        of = "of" if self.timescale_fraction < 1 else "times"
        share = f"{known}{self.timescale_fraction:.2g} {of} the run"
        return f"{self.name}: {share if self.rate else 'no decay'}"


@functools.cache
def all() -> tuple[Recipe, ...]:
    """All recipes: of language, of images, of fine-tuning and of other tasks.

    Example:
        >>> from decayax import recipes
        >>> print(recipes.all()[0])
        nanoGPT 124M: 0.907 epochs, 0.028 of the run
    """
    path = Path(__file__).with_name("recipes.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_parse(row) for row in csv.DictReader(file))


def find(name: str) -> Recipe:
    """The only recipe whose name contains the text.

    Args:
        name: the name or a part of it, in upper or lower case.

    Example:
        >>> from decayax import recipes
        >>> recipe = recipes.find("DeiT")
        >>> f"rate {recipe.rate:.0e}, {recipe.e_folds:.3g} e-folds"
        'rate 5e-05, 9.47 e-folds'
    """
    found = [recipe for recipe in all() if str(name).lower() in recipe.name.lower()]
    if len(found) == 1:
        return found[0]
    known = "; ".join(recipe.name for recipe in found or all())
    must = f"recipes.find: name must fit one recipe, got {name!r}"
    raise ValueError(f"{must}, which fits {len(found)}. Pass one of: {known}.")


def nearest(rate: float, steps: int) -> Recipe:
    r"""The recipe whose timescale is most nearly the same fraction of its run.

    .. math:: \hat\tau = \frac{1}{\mathrm{rate}\cdot T}, \qquad
        \text{distance} = |\log\hat\tau - \log\hat\tau'|

    Two runs are alike if one timescale is the same share of each. Distances are rounded
    to 0.01; of equal ones, the recipe with the nearer rate wins. Recipes without decay
    have no timescale and are left out.

    Args:
        rate: the fraction of a weight that one step removes at the peak, in (0, 1).
        steps: :math:`T`, the length of the run.

    Example:
        >>> from decayax import recipes
        >>> print(recipes.nearest(5e-5, steps=375_300))
        DeiT-S: 16 epochs, 0.053 of the run
    """
    name = "recipes.nearest"
    rate, steps = as_number(name, "rate", rate), whole(name, "steps", steps)
    if rate >= 1.0:
        raise ValueError(f"{name}: rate must be below 1, got {rate}.")

    def distance(recipe: Recipe) -> tuple[float, float]:
        of_run = abs(math.log(recipe.timescale_fraction * rate * steps))
        return round(of_run, 2), abs(math.log(recipe.rate / rate))

    return min((recipe for recipe in all() if recipe.rate > 0), key=distance)


def table(rows: Iterable[Recipe] | None = None) -> str:
    """The recipes and what they amount to, as text.

    The timescale is in steps. "half younger than" is a fraction of the run: half of the
    weight that is not initial is from that last part of it.

    Args:
        rows: some recipes; None for all.

    Example:
        >>> from decayax import recipes
        >>> print(recipes.table([recipes.find("DeiT")])[:45])
        recipe  lr     λ     rate/step  steps    time
    """
    lines = []
    for recipe in all() if rows is None else rows:
        about = "≈" if recipe.convention == "L2 + momentum" else ""
        half = recipe.half_age / recipe.steps
        lines.append(ROW.format(recipe, about=about, half=half))
    texts = [HEADER, *(re.sub(r"\b(nan|inf)\b", "-", line) for line in lines)]
    cells = [text.split("|") for text in texts]
    return "\n".join(aligned(cells, range(1, len(cells[0]) - 1)))


@functools.lru_cache(maxsize=1)  # one array may have 7 million steps
def _budget(recipe: Recipe) -> Budget:
    return budget(rate=_rates(recipe), steps=recipe.steps)


def _rates(recipe: Recipe) -> np.ndarray:
    """The rate of each step, in float64."""
    decay = recipe.decay_schedule or f"1; constant {recipe.steps} 1"
    factors = _values(recipe.schedule, recipe.steps) * _values(decay, recipe.steps)
    return recipe.rate * factors


def _values(schedule: str, steps: int) -> np.ndarray:
    """The multiples of the peak at all steps."""
    start, *texts = schedule.split(";")
    pieces = [
        (shape, int(end), float(value)) for shape, end, value in map(str.split, texts)
    ]
    ends = [0, *(end for _, end, _ in pieces)]
    before, parts = float(start), []
    for begin, (shape, end, value) in zip(ends, pieces, strict=False):
        x = np.arange(end - begin) / (end - begin)
        parts.append(value + (before - value) * SHAPES[shape](x))
        before = value
    return np.concatenate(parts)


def _parse(row: dict[str, str]) -> Recipe:
    """A row of ``recipes.csv``."""
    cells: dict[str, Any] = {
        field: float(row[field] or "nan") if kind is float else kind(row[field])
        for field, kind in Recipe.__annotations__.items()
    }
    return Recipe(**cells)
