"""Is grokking sooner with L2 or with decoupled decay, if both are tuned equally well?

Question    A small network fits modular addition long before it generalises. How many
            steps does it take to 99 % on held-out pairs without decay, with Adam and
            L2, and with AdamW? Learning rate and λ are both tuned for each arm.
Command     python -m experiments grokking        (--smoke for a run of seconds)
Cost        about ten minutes on 2 CPU cores
Expected    From a pilot with five seeds: without decay no run arrives, with decay every
            run does. At the learning rate 1e-2, L2 is up to 2.8 times sooner than AdamW
            on the MLP. This was not tuned, so we do not know the sign.
Falsified   The positive control, if a run without decay arrives at its best learning
            rate, or a run with tuned decay does not. "The place matters", if the
            log-rank test after Holm's correction does not separate L2 and AdamW.
Reference   Power, Burda, Edwards, Babuschkin and Misra, *Grokking*, 2022,
            https://arxiv.org/abs/2201.02177
            Nanda, Chan, Lieberum, Smith and Steinhardt, *Progress measures for grokking
            via mechanistic interpretability*, ICLR 2023,
            https://arxiv.org/abs/2301.05217

Addition modulo 31, all of 60 % of the pairs in every step, two networks. The score is
the number of steps to 99 %, seen at every 50th step; a run that does not arrive has the
number of its last step. Its mean is the restricted mean survival time. The search for
the points prefers, among runs that do not arrive, those with the higher accuracy. The
same held-out pairs choose the point and are reported, but on different seeds, and each
seed splits the pairs again.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import decayax as dx
from experiments import arms, protocol
from experiments.addition import Addition, effective_ranks
from experiments.data import modular
from experiments.engine.config import constant, StaticConfig, warmup
from experiments.engine.study import Study
from experiments.models.pair_mlp import pair_mlp
from experiments.models.transformer import transformer
from experiments.protocol import Contrast, difference, Entry, Measure, ProtocolPlan
from experiments.reports.grokking import write_report as write_report
from experiments.search import Axis, powers


P = 31
TRAIN_SIZE = 577  # 60 % of the pairs
WARMUP_STEPS = 10
NONE, L2, DECOUPLED = "none", "L2", "AdamW"
STEPS = Measure("penalised_steps", "steps", scale=-1.0, unit="steps", perfect=0.0)

# The arm without decay is the L2 optimizer with λ = 0, so both share a compilation.
adam_l2 = functools.partial(arms.scheduled, functools.partial(dx.adam_l2, b2=0.98))
adamw = functools.partial(arms.scheduled, functools.partial(dx.adamw, b2=0.98))
OPTIMIZERS = {NONE: adam_l2, L2: adam_l2, DECOUPLED: adamw}
RATES = Axis("learning_rate", powers(-7, -3, 2), 2.0**-11, 2.0**-1)
# Both grids have the best λ of earlier runs near their centre.
DECAYS = {
    # Adam normalises a term of any size, so L2 acts over many orders of magnitude.
    L2: Axis("weight_decay", powers(-14, -8, 2), 2.0**-28, 2.0**0, ratio=4.0),
    DECOUPLED: Axis("weight_decay", powers(-2, 1), 2.0**-6, 2.0**6),
}


class Network(NamedTuple):
    """A model and the length of its runs."""

    name: str
    model: Any
    steps: int


MLP = Network("MLP", functools.partial(pair_mlp, P + 1, P, 32, 128), 2000)
TRANSFORMER = Network(
    "transformer",
    functools.partial(transformer, P + 1, 3, 32, 4, 1, norm=False),
    600,
)


def entries(network: Network) -> list[Entry]:
    """The three arms on a network."""
    setup = Addition(
        data=functools.partial(modular.load, P),
        model=network.model,
        train_size=TRAIN_SIZE,
        classes=P,
        steps=network.steps,
    )
    epochs = network.steps // setup.look_every
    fixed = {"warmup": WARMUP_STEPS / network.steps}
    found = []
    for arm, make_optimizer in OPTIMIZERS.items():
        schedule = functools.partial(warmup, constant)
        config = StaticConfig(setup, make_optimizer, epochs, epochs, schedule)
        axes = (DECAYS[arm], RATES) if arm in DECAYS else (RATES,)
        numbers = fixed | ({} if arm in DECAYS else {"weight_decay": 0.0})
        labels = {"task": network.name, "arm": arm}
        found.append(Entry(f"{network.name} {arm}", labels, config, axes, numbers))
    return found


def contrasts(network: Network) -> list[Contrast]:
    """Differences of the steps, so that a positive one says "sooner"."""
    found = []
    for one, other in ((L2, DECOUPLED), (L2, NONE), (DECOUPLED, NONE)):
        first, second = f"{network.name} {one}", f"{network.name} {other}"
        each = difference(first, second, one, other, network.name)
        found.append(
            each._replace(
                positive=f"{one} clearly sooner", negative=f"{other} clearly sooner"
            )
        )
    return found


def plan_of(networks: Sequence[Network], **numbers: Any) -> ProtocolPlan:
    """The plan for some networks."""
    return ProtocolPlan(
        entries=tuple(entry for network in networks for entry in entries(network)),
        contrasts=tuple(each for network in networks for each in contrasts(network)),
        measure=STEPS,
        **numbers,
    )


def with_two_values(entry: Entry) -> Entry:
    """The entry with two values on each axis, for a smoke run."""
    axes = tuple(axis._replace(values=axis.values[1:3]) for axis in entry.axes)
    return entry._replace(axes=axes)


FULL = plan_of(
    (MLP, TRANSFORMER),
    tuning_seeds=2,
    rounds=3,
    added=5,
    screened=4,
    candidates=2,
    validation_seeds=12,
    chunk=10,
    first_seed=40,  # a trial run used the seeds before it
)
SMOKE = plan_of([MLP._replace(steps=50)], **protocol.SMOKE, chunk=8)
SMOKE = dataclasses.replace(SMOKE, entries=tuple(map(with_two_values, SMOKE.entries)))


def study(plan: ProtocolPlan) -> Study:
    """The protocol; the final runs store the effective rank of each matrix."""
    stages = protocol.stages(plan, effective_ranks)
    return Study(name="grokking", plan=plan, stages=stages, report=write_report)
