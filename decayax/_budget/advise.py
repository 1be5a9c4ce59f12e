"""Advice on a strength: what the rules say, and three runs that settle it."""

import dataclasses
import math

import numpy as np

from decayax._budget.checks import as_number, one_of, whole
from decayax._budget.rules import (
    ADAMW,
    FINE_TUNING,
    ONE_PASS,
    RE_READ,
    Row,
    rules,
    Run,
    SGDW,
    usual,
)
from decayax._core.table import aligned


NAME = "advise"
ROUNDING = 0.05  # of the epochs that users state


@dataclasses.dataclass(frozen=True, repr=False)
class Advice:
    """An interval of weight decays with its reasons: the result of ``advise``.

    It has no single value on purpose: no rule predicts the best one. Print it for a
    table.

    Attributes:
        low, high: the lr-scaled weight decays between which the rules disagree.
        probe: three weight decays to train with.
        rows: what recipes use, and what each rule says.
        learning_rate, steps: of the run.
        notes: what the interval does not know.
    """

    low: float
    high: float
    probe: tuple[float, float, float]
    rows: tuple[Row, ...]
    learning_rate: float
    steps: int
    notes: tuple[str, ...]

    def table(self) -> str:
        """The text that ``print`` shows."""
        header = ("rule", "weight decay", "timescale, steps", "of the run")
        rows = [self._cells(row) for row in self.rows if row.covers]
        low, middle, high = map(_number, self.probe)
        lines = [
            f"learning rate {self.learning_rate:.3g}, {self.steps:,} steps",
            *aligned([(*header, "init kept*"), *rows], (1, 2, 3, 4)),
            f"interval: {_number(self.low)} to {_number(self.high)}, a factor of "
            f"{_number(self.high / self.low)}",
            f"probe: train with {low}, {middle} and {high} for all steps. If an end is "
            "best, go on in its direction.",
            "* at a constant learning rate; a schedule keeps more",
            *(f"- {row.rule}: {row.seen}." for row in self.rows),
            *self.notes,
        ]
        return "\n".join(lines)

    __str__ = __repr__ = table

    def _cells(self, row: Row) -> tuple[str, ...]:
        decays = np.unique([row.low, row.high])
        times = 1.0 / (self.learning_rate * decays)
        kept = np.maximum(1.0 - 1.0 / times, 0.0) ** self.steps
        return (row.rule, *map(_ends, (decays, times, times / self.steps, kept)))


def advise(
    *,
    learning_rate: float,
    steps: int,
    batch: float | None = None,
    samples: float | None = None,
    epochs: float | None = None,
    parameters: float | None = None,
    tokens: float | None = None,
    regime: str | None = None,
    optimizer: str = ADAMW,
) -> Advice:
    r"""What published rules say about the weight decay of a run, and how to decide.

    It returns an interval and three weight decays to train with, and not one number:
    the rules contradict each other, and on small tasks none of them is right.

    Args:
        learning_rate: the peak that is *applied* to the weights. With μP, that is the
            tuned base rate times the width factor of the matrices.
        steps: the number of steps of the run.
        batch: samples (or tokens) per step.
        samples: samples (or tokens) of one pass over the data.
        epochs: passes over the data; None: steps · batch / samples.
        parameters: of the model: all of them, also of experts that are not active.
        tokens: of the run, for language models.
        regime: "one-pass", "re-read" (several epochs) or "fine-tuning". None: by the
            number of epochs.
        optimizer: "adamw" or "sgdw". Rules that were seen with AdamW do not cover SGD.

    Returns:
        An :class:`Advice`. ``print`` it for a table. All weight decays are lr-scaled,
        as in ``dx.adamw``; times the learning rate they are those of
        ``dx.independent_decay``.

    Example:
        >>> import decayax as dx
        >>> advice = dx.advise(
        ...     learning_rate=6e-4, steps=5086, epochs=1, parameters=124e6, tokens=2.5e9
        ... )
        >>> print(f"{advice.low:.2f} to {advice.high:.1f}")
        0.33 to 1.9

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, appendix B.1; Wang and
        Aitchison, https://arxiv.org/abs/2405.13698; Bergsma et al. (Power Lines),
        https://arxiv.org/abs/2505.13738, and (Celerity),
        https://arxiv.org/abs/2509.25087; Kim et al., https://arxiv.org/abs/2509.14786.
    """
    one_of(NAME, "optimizer", optimizer, (ADAMW, SGDW))
    steps = whole(NAME, "steps", steps)
    passes = _passes(steps, batch, samples, epochs)
    regime = _regime(regime, passes)
    run = Run(
        learning_rate=as_number(NAME, "learning_rate", learning_rate),
        steps=steps,
        regime=regime,
        optimizer=optimizer,
        passes=1.0 if regime == ONE_PASS else passes,
        parameters=_known("parameters", parameters),
        tokens=_known("tokens", tokens),
    )
    rows = (usual(run), *rules(run))
    covering = [row for row in rows[1:] if row.covers]
    if len(covering) < 2:  # then what others do is as good a guide
        covering.append(rows[0])
    low, high = min(row.low for row in covering), max(row.high for row in covering)
    return Advice(
        low=low,
        high=high,
        probe=(low, math.sqrt(low * high), high),
        rows=rows,
        learning_rate=run.learning_rate,
        steps=steps,
        notes=_notes(regime),
    )


def _known(argument: str, value: float | None) -> float:
    """A number > 0; NaN if it is not known."""
    return math.nan if value is None else as_number(NAME, argument, value)


def _passes(
    steps: int, batch: float | None, samples: float | None, epochs: float | None
) -> float | None:
    """The passes over the data, if they are known."""
    passes = steps * _known("batch", batch) / _known("samples", samples)
    epochs = _known("epochs", epochs)
    if abs(epochs / passes - 1.0) > ROUNDING:  # False if one of them is not known
        raise ValueError(
            f"{NAME}: epochs must be steps * batch / samples = {passes:.4g}, got "
            f"{epochs:.4g}. Pass two of batch, samples and epochs."
        )
    found = epochs if math.isnan(passes) else passes
    if found > steps * (1.0 + ROUNDING):
        raise ValueError(
            f"{NAME}: epochs must be <= steps, got {found:.4g} and {steps}: a batch is "
            "at most all data."
        )
    return None if math.isnan(found) else found


def _regime(regime: str | None, passes: float | None) -> str:
    if regime is None and passes is not None:
        return ONE_PASS if passes <= 1.0 + ROUNDING else RE_READ
    hint = "It may be left out if epochs, or batch and samples, are given."
    one_of(NAME, "regime", regime, (ONE_PASS, RE_READ, FINE_TUNING), hint)
    if regime == ONE_PASS and passes is not None and passes > 1.0 + ROUNDING:
        raise ValueError(
            f"{NAME}: regime must be {RE_READ!r} or {FINE_TUNING!r}, got {regime!r}: "
            f"the run reads its data {passes:.3g} times."
        )
    return str(regime)


def _notes(regime: str) -> tuple[str, ...]:
    own = {
        ONE_PASS: [],
        RE_READ: [
            "On re-read text, the best weight decay grew as epochs^0.78 in our study "
            "(experiments/results/strength): faster than any rule says."
        ],
        FINE_TUNING: [
            "Usual weight decays do nearly nothing in fine-tuning. To stay near the "
            "pretrained weights, see dx.decay_to_init."
        ],
    }
    return (
        *own[regime],
        "No rule covers LoRA (see dx.merged_lora_decay) or depth. The learning rate is "
        "the applied one: with muP, after the width factor.",
    )


def _ends(values: np.ndarray) -> str:
    return " to ".join(dict.fromkeys(map(_number, values)))


def _number(x: float) -> str:
    if x < 1e-6:
        return "< 1e-06" if x else "0"
    return f"{x:.2g}" if x < 100 else f"{float(f'{x:.2g}'):,.0f}"
