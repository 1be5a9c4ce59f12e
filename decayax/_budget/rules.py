r"""Rules in print for the strength of a decay, and where each was seen.

A rule gives the rate d per step in a run of T steps. The timescale is 1/d steps and
:math:`\hat\tau = 1/(dT)` of the run; the lr-scaled weight decay is λ = d/γ.

    1/√steps              d = c/√T, c from 0.025 to 0.05         Loshchilov & Hutter
    timescale in epochs   1/d from one epoch to the whole run    Wang & Aitchison
    tokens per parameter  τ̂ = c·TPP^−0.527, c from 0.96 to 1.09  Power Lines
                          τ̂ = 0.175·(TPP/20)^−0.50               Celerity
    few tokens re-read    λ from 1.6 to 3.2                      Kim et al.
    our study of text     λ = 0.78 (epochs/25.6)^(0.68 to 0.88)  studies/strength
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from decayax._budget import recipes


ONE_PASS, RE_READ, FINE_TUNING = "one-pass", "re-read", "fine-tuning"
ADAMW, SGDW = "adamw", "sgdw"
USUAL = {ONE_PASS: (0.1,), RE_READ: (0.1,), FINE_TUNING: (0.01, 0.1)}  # lr-scaled λ
RECIPES_OF_SGD = ("ResNet-50", "CIFAR")
NORMALISED = (0.025, 0.05)
# c: 0.96 to 1.02 from a worked value of the paper, 1.09 from its fit as cited.
POWER_LINES, C_OF_POWER_LINES = -0.527, (0.96, 1.09)
CELERITY, CELERITY_AT_20 = -0.50, 0.175
TOKENS_PER_PARAMETER = (20, 1280)  # where Power Lines was fitted
MOST_OF_CELERITY = 234  # tokens per parameter
FEW_TOKENS, FEW = (1.6, 3.2), 1e9  # λ; different tokens, 5 times as many as seen
# experiments/results/strength: λ* at the reference, and the exponent of the epochs.
STUDY_DECAY, STUDY_EPOCHS, STUDY_EXPONENT = 2**-0.36, 25.6, (0.68, 0.88)
STUDY_RANGE, STUDY_PARAMETERS = (12.8, 51.2), (30_000, 130_000)


class Run(NamedTuple):
    """A run, as far as it is known."""

    learning_rate: float
    steps: int
    regime: str
    optimizer: str
    passes: float | None  # over the data
    parameters: float  # NaN if not known
    tokens: float  # of all passes; NaN if not known


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

    @property
    def covers(self) -> bool:
        """Whether the rule covers this run."""
        return not math.isnan(self.low)


def usual(run: Run) -> Row:
    """What recipes use, and the recipe that is most like the larger end."""
    decays: Sequence[float] = USUAL[run.regime]
    if run.optimizer == SGDW:
        known = map(recipes.find, RECIPES_OF_SGD)
        decays = [recipe.rate / recipe.learning_rate for recipe in known]
    high = max(decays)
    rate = min(run.learning_rate * high, 0.5)
    here = 1.0 / (rate * run.steps)
    near = recipes.nearest(rate, run.steps)
    alike = 0.5 < near.timescale_fraction / here < 2.0
    seen = f"at {high:.2g} the timescale is {here:.2g} of the run; "
    seen += f"nearest: {near}" if alike else "no recipe is near"
    return Row("usual recipes", min(decays), high, seen)


def rules(run: Run) -> list[Row]:
    """What each rule says of a run; all of them, also those that do not cover it."""
    return [
        _square_root(run),
        _epochs(run),
        _tokens_per_parameter(run),
        _few_tokens(run),
        _study(run),
    ]


def _square_root(run: Run) -> Row:
    rates = [c / math.sqrt(run.steps) for c in NORMALISED]
    seen = "seen on small images, SGDW and AdamW, cosine, 25 to 1800 epochs"
    tuned = run.regime == FINE_TUNING
    return _row(run, "1/sqrt(steps)", rates, seen, {"not seen in fine-tuning": tuned})


def _epochs(run: Run) -> Row:
    rates = [passes / run.steps for passes in (1.0, max(run.passes or 1.0, 1.0))]
    seen = "a guideline; seen on small images, and GPT-2 with 124M parameters"
    unless = {
        "not seen in fine-tuning": run.regime == FINE_TUNING,
        "seen with AdamW only": run.optimizer != ADAMW,
        "needs epochs, or batch and samples": run.passes is None,
        "seen for epochs of many steps": 10.0 * (run.passes or 0.0) > run.steps,
    }
    return _row(run, "1 epoch to the run", rates, seen, unless)


def _tokens_per_parameter(run: Run) -> Row:
    (least, most), tpp = TOKENS_PER_PARAMETER, run.tokens / run.parameters
    fractions = [c * tpp**POWER_LINES for c in C_OF_POWER_LINES]
    if tpp <= MOST_OF_CELERITY:
        fractions.append(CELERITY_AT_20 * (tpp / 20.0) ** CELERITY)
    rates = [1.0 / (fraction * run.steps) for fraction in fractions]
    seen = "seen on 111M to 3.9B parameters, muP, learning rate linear to 0"
    unless = {
        "seen in one pass over the data only": run.regime != ONE_PASS,
        "seen with AdamW only": run.optimizer != ADAMW,
        "needs parameters and tokens": math.isnan(tpp),
        # 1 % for numbers that users round.
        f"seen for {least} to {most}, here {tpp:.4g}": not 0.99 * least <= tpp <= most,
    }
    return _row(run, "tokens/parameter", rates, seen, unless)


def _few_tokens(run: Run) -> Row:
    rates = [run.learning_rate * decay for decay in FEW_TOKENS]
    different = run.tokens / (run.passes or math.nan)
    seen = "seen on 200M tokens, learning rate and epochs tuned too; no formula"
    unless = {
        "seen for text that is re-read": run.regime != RE_READ,
        "seen with AdamW only": run.optimizer != ADAMW,
        "needs tokens and epochs": math.isnan(different),
        f"seen on 200M tokens, here {different:.2g}": different > FEW,
    }
    return _row(run, "few tokens re-read", rates, seen, unless)


def _study(run: Run) -> Row:
    passes = run.passes or math.nan
    growth = [(passes / STUDY_EPOCHS) ** exponent for exponent in STUDY_EXPONENT]
    rates = [run.learning_rate * STUDY_DECAY * x for x in growth]
    (least, most), (small, large) = STUDY_RANGE, STUDY_PARAMETERS
    seen = "a decoder with 63,000 parameters, 20,000 characters, 13 to 51 epochs"
    re_read = run.regime == RE_READ and not math.isnan(run.tokens)
    alike = small <= run.parameters <= large
    unless = {
        "seen for text that is re-read": not re_read,
        "seen with AdamW only": run.optimizer != ADAMW,
        f"seen for {small:,} to {large:,} parameters": not alike,
        f"seen for {least} to {most} epochs": not least <= passes <= most,
    }
    return _row(run, "our study of text", rates, seen, unless)


def _row(
    run: Run, rule: str, rates: Sequence[float], seen: str, unless: dict[str, bool]
) -> Row:
    """The row of a rule; the first reason that holds says why it does not cover."""
    unless |= {"its rate would be above 1": max(rates) >= 1.0}
    for reason, holds in unless.items():
        if holds:
            return Row(rule, math.nan, math.nan, f"not for this run: {reason}")
    low, high = (rate / run.learning_rate for rate in (min(rates), max(rates)))
    return Row(rule, low, high, seen)
