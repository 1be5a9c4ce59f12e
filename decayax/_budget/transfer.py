r"""A tuned learning rate and weight decay, carried to another run.

One rule keeps one quantity, and the others move. In a run of T steps with M steps per
epoch, with the lr-scaled weight decay λ at the learning rate γ (in equilibrium, up to
factors that do not change):

    rate                   γλ
    timescale              1/(γλ) steps, 1/(γλM) epochs, 1/(γλT) of the run
    angle per step         √(2γλ(1 − β₁)/(1 + β₁))
    RMS of the weights     √(γ/λ)
    largest singular value √(γ/λ) · width^¾

The last three are those of AdamW, for weights whose size the model does not see.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from decayax._budget.checks import as_number, one_of
from decayax._core.strength import short_repr
from decayax._core.table import aligned


NAME = "transfer"
# What each rule keeps, and who proposed it.
RULES = {
    "timescale": ("timescale, epochs", "Wang & Aitchison"),
    "angle": ("angle per step", "Kosson et al.; mup"),
    "gain": ("largest singular value", "Fan et al."),
    "sqrt": ("rate * sqrt(steps)", "Loshchilov & Hutter"),
}


class Change(NamedTuple):
    """How the new run differs, as factors: steps = T, per_epoch = M."""

    batch: float
    data: float
    epochs: float
    width: float

    @property
    def per_epoch(self) -> float:
        """The factor of the steps per epoch."""
        return self.data / self.batch

    @property
    def steps(self) -> float:
        """The factor of the steps of the run."""
        return self.per_epoch * self.epochs


class Row(NamedTuple):
    """A quantity before and after; NaN where it is not known.

    ``kept`` is "by the rule" for the one that the rule keeps, "yes" for others that do
    not change, and "" for those that do.
    """

    quantity: str
    old: float
    new: float
    factor: float
    kept: str


@dataclasses.dataclass(frozen=True, repr=False)
class Transfer:
    """A strength for another run: the result of ``transfer``, which prints as a table.

    Attributes:
        learning_rate: the new peak.
        weight_decay: the new lr-scaled λ, as for ``dx.adamw`` and ``optax.adamw``.
        steps: the new number of steps; None if the old one is not known.
        rows: what is kept and what changes.
        others: the lr-scaled λ of each rule, at the same new learning rate.
    """

    learning_rate: float
    weight_decay: float
    steps: float | None
    rows: tuple[Row, ...]
    others: dict[str, float]

    @property
    def rate(self) -> float:
        """The fraction of a weight that one step removes at the peak.

        It is also the weight decay of ``dx.independent_decay``.
        """
        return self.learning_rate * self.weight_decay

    def table(self) -> str:
        """The text that ``print`` shows."""
        rows = [["", "old", "new", "factor", "kept"]]
        for row in self.rows:
            numbers = map(_number, (row.old, row.new, row.factor))
            rows.append([row.quantity, *numbers, row.kept])
        head = (
            f"learning rate {_number(self.learning_rate)}, weight decay "
            f"{_number(self.weight_decay)} (independent: {_number(self.rate)})"
        )
        rules = [("rule", "keeps", "weight decay", "")]
        for rule, x in self.others.items():
            keeps, authors = RULES[rule]
            rules.append((rule, keeps, _number(x), authors))
        if self.rate == 0.0:
            return f"{head}: no decay"
        if self.rate > 1.0:
            head += "\nsuch a rate is above 1: it changes the sign of the weights"
        lines = [head, *aligned(rows, (1, 2, 3)), "", *aligned(rules, (2,))]
        return "\n".join(lines)

    __str__ = __repr__ = table


def transfer(
    tuned: Sequence[float] | Transfer,
    *,
    steps: float | None = None,
    batch: float = 1.0,
    data: float = 1.0,
    epochs: float = 1.0,
    width: float = 1.0,
    keep: str = "timescale",
    learning_rate: str | float = "same",
) -> Transfer:
    r"""Carry a tuned learning rate and weight decay to another run.

    With the learning rate times :math:`a`, the rate :math:`\gamma\lambda` is multiplied
    by

    .. math:: \text{timescale: } \frac{\text{batch}}{\text{data}}, \quad
        \text{angle: } 1, \quad
        \text{gain: } a^2\,\text{width}^{3/2}, \quad
        \text{sqrt: } \sqrt{\frac{\text{batch}}{\text{data}\cdot\text{epochs}}}

    and the lr-scaled :math:`\lambda` by that divided by :math:`a`. The rules contradict
    each other, and each has been seen in some runs only; tune again where it matters.

    Args:
        tuned: (learning rate, weight decay) of the old run: the peak that is applied
            to the weights, and the lr-scaled :math:`\lambda`. Or an earlier result.
        steps: of the old run, to show what is kept of the initial weights.
        batch, data, epochs, width: new divided by old: of the batch size, the number of
            samples or tokens in one pass, the number of passes, and the width.
        keep: the rule. "timescale": in epochs, for more data or another batch size
            (Wang & Aitchison). "angle": the angle per step, for another width. "gain":
            the largest singular value of matrices, :math:`\propto
            \sqrt{\gamma/\lambda}\,\text{width}^{3/4}` (Fan et al.). "sqrt": the rate
            times :math:`\sqrt{T}` (Loshchilov & Hutter).
        learning_rate: how the new learning rate follows: "same"; "sqrt" or "linear" in
            the batch size; "mup", divided by the width; or its factor :math:`a`.

    Returns:
        A :class:`Transfer`. ``print`` it for a table.

    Example:
        >>> import decayax as dx
        >>> new = dx.transfer((1e-3, 0.1), batch=4, learning_rate="sqrt")
        >>> print(f"lr {new.learning_rate:.3g}, weight decay {new.weight_decay:.3g}")
        lr 0.002, weight decay 0.2

    Reference:
        Wang and Aitchison, https://arxiv.org/abs/2405.13698; Kosson et al.,
        https://arxiv.org/abs/2510.19093; Fan et al., https://arxiv.org/abs/2510.15262;
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, appendix B.1.
    """
    if isinstance(tuned, Transfer):
        steps = tuned.steps if steps is None else steps
        tuned = (tuned.learning_rate, tuned.weight_decay)
    if isinstance(tuned, str) or not isinstance(tuned, Sequence) or len(tuned) != 2:
        raise TypeError(
            f"{NAME}: tuned must be (learning rate, weight decay), got "
            f"{short_repr(tuned)}. Pass transfer((1e-3, 0.1), batch=4), for example."
        )
    gamma = as_number(NAME, "the learning rate", tuned[0])
    decay = as_number(NAME, "the weight decay", tuned[1], zero=True)
    run = math.nan if steps is None else as_number(NAME, "steps", steps)
    change = Change(
        batch=as_number(NAME, "batch", batch),
        data=as_number(NAME, "data", data),
        epochs=as_number(NAME, "epochs", epochs),
        width=as_number(NAME, "width", width),
    )
    one_of(NAME, "keep", keep, tuple(RULES))
    a = _factor_of_lr(learning_rate, change)
    others = {rule: decay * _factor_of_rate(rule, change, a) / a for rule in RULES}
    return Transfer(
        learning_rate=gamma * a,
        weight_decay=others[keep],
        steps=None if steps is None else run * change.steps,
        rows=_rows(gamma, decay, a, change, run, keep),
        others=others,
    )


def _factor_of_lr(learning_rate: str | float, change: Change) -> float:
    if not isinstance(learning_rate, str):
        return as_number(NAME, "learning_rate, as a factor,", learning_rate)
    factors = {
        "same": 1.0,
        "sqrt": math.sqrt(change.batch),
        "linear": change.batch,
        "mup": 1.0 / change.width,
    }
    hint = "Or pass the factor of the learning rate."
    one_of(NAME, "learning_rate", learning_rate, tuple(factors), hint)
    return factors[learning_rate]


def _factor_of_rate(rule: str, change: Change, a: float) -> float:
    """The factor of the rate γλ if the learning rate is multiplied by ``a``."""
    return {
        "timescale": 1.0 / change.per_epoch,
        "angle": 1.0,
        "gain": a**2 * change.width**1.5,
        "sqrt": change.steps**-0.5,
    }[rule]


def _rows(
    gamma: float, decay: float, a: float, change: Change, run: float, keep: str
) -> tuple[Row, ...]:
    """What the rule keeps, and what moves."""
    rate, r = gamma * decay, _factor_of_rate(keep, change, a)
    inverse = 1.0 / rate if rate else math.inf
    size = a / math.sqrt(r)  # of √(γ/λ) = γ/√(γλ)
    known = {
        "rate per step": (rate, r),
        "timescale, steps": (inverse, 1.0 / r),
        "timescale, epochs": (math.nan, 1.0 / (r * change.per_epoch)),
        "timescale, of the run": (inverse / run, 1.0 / (r * change.steps)),
        "rate * sqrt(steps)": (rate * math.sqrt(run), r * math.sqrt(change.steps)),
        "angle per step": (math.nan, math.sqrt(r)),
        "angle^2 per epoch": (math.nan, r * change.per_epoch),
        "RMS of the weights": (math.nan, size),
        "largest singular value": (math.nan, size * change.width**0.75),
    }
    rows = [
        Row(name, old, old * factor, factor, _mark(name, factor, keep))
        for name, (old, factor) in known.items()
    ]
    # At a constant learning rate; a schedule keeps more.
    old, new = _kept(rate, run), _kept(rate * r, run * change.steps)
    return (*rows, Row("init kept, constant lr", old, new, math.nan, ""))


def _mark(quantity: str, factor: float, keep: str) -> str:
    if quantity == RULES[keep][0]:
        return "by the rule"
    return "yes" if math.isclose(factor, 1.0, rel_tol=1e-9) else ""


def _kept(rate: float, steps: float) -> float:
    return math.exp(steps * math.log1p(-rate)) if rate < 1.0 else 0.0


def _number(x: float) -> str:
    return "" if math.isnan(x) else f"{x:.4g}"
