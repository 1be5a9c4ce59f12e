r"""What published rules say about a strength, next to each other, and how to decide.

A rule gives the rate d per step in a run of T steps. The timescale is 1/d steps and
:math:`\hat\tau = 1/(dT)` of the run; the lr-scaled weight decay is λ = d/γ.

    1/√steps              d = c/√T, c from 0.025 to 0.05         Loshchilov & Hutter
    timescale in epochs   1/d from one epoch to the whole run    Wang & Aitchison
    tokens per parameter  τ̂ = c·TPP^−0.527, c from 0.96 to 1.09  Power Lines
                          τ̂ = 0.175·(TPP/20)^−0.50               Celerity
    few tokens re-read    λ from 1.6 to 3.2                      Kim et al.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from decayax._budget import recipes
from decayax._budget.checks import as_positive, one_of
from decayax._core.table import aligned


NAME = "advise"
ONE_PASS, RE_READ, FINE_TUNING = "one-pass", "re-read", "fine-tuning"
ADAMW, SGDW = "adamw", "sgdw"
# The lr-scaled λ of most recipes.
USUAL = {ONE_PASS: (0.1,), RE_READ: (0.1,), FINE_TUNING: (0.01, 0.1)}
RECIPES_OF_SGD = ("ResNet-50", "CIFAR")
NORMALISED = (0.025, 0.05)
# c is from a worked value of the paper; the two ends are its uncertainty.
POWER_LINES, C_OF_POWER_LINES = -0.527, (0.96, 1.09)
CELERITY, CELERITY_AT_20 = -0.50, 0.175
TOKENS_PER_PARAMETER = (20, 1280)  # where Power Lines was fitted
FEW_TOKENS = (1.6, 3.2)
ALMOST_ONE = 1.05  # passes that count as one


class Row(NamedTuple):
    """What one rule says.

    Attributes:
        rule: its name.
        low, high: the lr-scaled λ; NaN if the rule does not cover this run.
        seen: where it was seen, or why it does not cover this run.
    """

    rule: str
    low: float
    high: float
    seen: str


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
        header = ("rule", "weight decay", "timescale, steps", "of the run", "init kept")
        cells = [(*header, "seen"), *map(self._cells, self.rows)]
        low, middle, high = map(_number, self.probe)
        lines = [
            f"learning rate {self.learning_rate:.3g}, {self.steps:,} steps",
            *aligned(cells, (1, 2, 3, 4)),
            f"interval: {_number(self.low)} to {_number(self.high)}, a factor of "
            f"{_number(self.high / self.low)}",
            f"probe: train with {low}, {middle} and {high} for all steps. If an end is "
            "best, go on in its direction.",
            *self.notes,
        ]
        return "\n".join(lines)

    __str__ = __repr__ = table

    def _cells(self, row: Row) -> tuple[str, ...]:
        if math.isnan(row.low):
            return (row.rule, "-", "-", "-", "-", f"not for this run: {row.seen}")
        decays = np.unique([row.low, row.high])
        times = 1.0 / (self.learning_rate * decays)
        # At a constant learning rate; a schedule keeps more.
        kept = np.maximum(1.0 - 1.0 / times, 0.0) ** self.steps
        numbers = (decays, times, times / self.steps, kept)
        return (row.rule, *map(_ends, numbers), row.seen)


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
    lr, t = (
        as_positive(NAME, "learning_rate", learning_rate),
        int(as_positive(NAME, "steps", steps)),
    )
    one_of(NAME, "optimizer", optimizer, (ADAMW, SGDW))
    passes = _passes(t, batch, samples, epochs)
    regime = _regime(regime, passes)
    tpp = None
    if parameters is not None and tokens is not None:
        tpp = as_positive(NAME, "tokens", tokens) / as_positive(
            NAME, "parameters", parameters
        )
    passes = 1.0 if regime == ONE_PASS else passes
    usual = USUAL[regime]
    if optimizer == SGDW:
        sgd = map(recipes.find, RECIPES_OF_SGD)
        usual = [recipe.rate / recipe.learning_rate for recipe in sgd]
    nearest = recipes.nearest(min(lr * max(usual), 0.5), t)
    rules = [
        Row(rule, min(decays), max(decays), seen)
        if not (why := next((text for text, holds in unless if holds), ""))
        else Row(rule, math.nan, math.nan, why)
        for rule, decays, seen, unless in _rules(lr, t, passes, tpp, regime, optimizer)
    ]
    first = Row(
        "usual recipes", min(usual), max(usual), f"{max(usual):.2g} as {nearest}"
    )
    # No rule covers fine-tuning: only what others do is known.
    covering = [row for row in rules if not math.isnan(row.low)] or [first]
    low, high = min(row.low for row in covering), max(row.high for row in covering)
    probe = (low, math.sqrt(low * high), high)
    return Advice(low, high, probe, (first, *rules), lr, t, _notes(regime))


Rule = tuple[str, Sequence[float], str, Iterable[tuple[str, bool]]]


def _rules(
    lr: float,
    steps: int,
    passes: float | None,
    tpp: float | None,
    regime: str,
    optimizer: str,
) -> list[Rule]:
    """Name, lr-scaled λs, where it was seen, and reasons why it may not cover a run."""
    tuned = ("not seen in fine-tuning", regime == FINE_TUNING)
    other = ("seen with AdamW only", optimizer != ADAMW)
    least, most = TOKENS_PER_PARAMETER
    ratio = tpp or math.nan
    times = [c * ratio**POWER_LINES for c in C_OF_POWER_LINES]
    times.append(CELERITY_AT_20 * (ratio / 20.0) ** CELERITY)
    return [
        (
            "1/sqrt(steps)",
            [c / math.sqrt(steps) / lr for c in NORMALISED],
            "small images, SGDW and AdamW, cosine, 25 to 1800 epochs",
            [tuned],
        ),
        (
            "1 epoch to the run",
            [x / steps / lr for x in (1.0, max(passes or 1.0, 1.0))],
            "guideline; small images, and GPT-2 with 124M parameters",
            [tuned, other, ("needs epochs, or batch and samples", passes is None)],
        ),
        (
            "tokens/parameter",
            [1.0 / (x * steps * lr) for x in times],
            "111M to 3.9B parameters, muP, linear decay of the learning rate to 0",
            [
                ("seen in one pass over the data only", regime != ONE_PASS),
                other,
                ("needs parameters and tokens", tpp is None),
                (
                    f"seen for {least} to {most} tokens per parameter, this run has "
                    f"{ratio:.3g}",
                    not least <= ratio <= most,
                ),
            ],
        ),
        (
            "few tokens re-read",
            FEW_TOKENS,
            "200M tokens, learning rate and epochs tuned too; no formula",
            [
                ("seen for data that are re-read", regime != RE_READ),
                other,
                ("seen for language models: needs parameters and tokens", tpp is None),
            ],
        ),
    ]


def _passes(
    steps: int, batch: float | None, samples: float | None, epochs: float | None
) -> float | None:
    """The passes over the data, if they are known."""
    given = None if epochs is None else as_positive(NAME, "epochs", epochs)
    if batch is None or samples is None:
        return given
    passes = (
        steps
        * as_positive(NAME, "batch", batch)
        / as_positive(NAME, "samples", samples)
    )
    if given is not None and not math.isclose(given, passes, rel_tol=0.05):
        raise ValueError(
            f"{NAME}: epochs must be steps * batch / samples = {passes:.4g}, got "
            f"{given:.4g}. Pass two of batch, samples and epochs."
        )
    return passes


def _regime(regime: str | None, passes: float | None) -> str:
    if regime is None and passes is not None:
        return ONE_PASS if passes <= ALMOST_ONE else RE_READ
    hint = "It may be left out if epochs, or batch and samples, are given."
    one_of(NAME, "regime", regime, tuple(USUAL), hint)
    if regime == ONE_PASS and passes is not None and passes > ALMOST_ONE:
        raise ValueError(
            f"{NAME}: regime must be {RE_READ!r} or {FINE_TUNING!r}, got {regime!r}: "
            f"the run reads its data {passes:.3g} times."
        )
    return str(regime)


def _notes(regime: str) -> tuple[str, ...]:
    own = {
        ONE_PASS: [],
        RE_READ: [
            "Where data are re-read, the best weight decay of our studies grew with "
            "the number of epochs, more than any rule says."
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
    return f"{x:.2g}" if x < 100 else f"{float(f'{x:.2g}'):,.0f}"
