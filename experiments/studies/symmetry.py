"""Does the scale symmetry of a leaf decide what weight decay does to it?

Question    A function that does not depend on the scale of a leaf has no gradient in
            the direction of this leaf. (a) Does decay then determine the norm of the
            leaf and the angle of its steps? (b) Does decay change the function, or only
            the size of the next step? (c) Is training with decay equal to training
            without decay and with another learning rate?
Command     python -m experiments symmetry        (--smoke for a run of a minute)
            `make data` first, for the text
Cost        17 minutes of CPU time, about 10 minutes on 2 CPU cores
Expected    Invariant leaves: (a) the angle is √(2γλ(1 - β)/(1 + β)), whatever the data
            are, and the norm is that of `dx.decay_stats`, from two starts; (b) the
            logits are equal, and the relative step is multiplied by 1/c² (SGD) or 1/c
            (Adam); (c) the runs are equal. All three fail for leaves of other kinds.
Falsified   (a) if the median deviation of invariant leaves is above 10 % for the angle,
            5 % for the norm or 10 % between the starts, or if it is not clearly smaller
            than that of other leaves. (b) if c = 1/2 changes the logits by more than
            0.1 %, or a step ratio by more than 1 % of the prediction. (c) if losses in
            float64 differ by more than 1e-6, or if in float32 the gap is more than 10 %
            of the effect of decay.
Reference   Kosson, Messmer and Jaggi, *Rotational Equilibrium*, ICML 2024,
            https://arxiv.org/abs/2305.17212
            Van Laarhoven, *L2 Regularization versus Batch and Weight Normalization*,
            2017, https://arxiv.org/abs/1706.05350

`dx.scale_symmetries` says which leaves are invariant. These numbers were written down
after a pilot on the seeds 0 to 3, and the study uses other seeds. In the pilot with
momentum, the norms of all kinds were near their prediction, because the measured step
contains the momentum. So the study also runs SGD without momentum.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

import decayax as dx
from experiments import compensation, equilibria, scaling
from experiments.compensation import ADAM, DECAY, EXACT, MATCHED, MOMENTUM, SGD
from experiments.data import corpus, digits, modular
from experiments.engine.compilation_cache import CompilationCache
from experiments.engine.study import Stage, Study
from experiments.engine.training import Measurement, Progress
from experiments.models.model import AnyModel
from experiments.models.resnet import resnet
from experiments.models.sandwich import sandwich
from experiments.networks import INVARIANT, kinds_of, network_of, Setup
from experiments.reports.symmetry import (
    claims as claims,
    write_report as write_report,
)
from experiments.tasks import Classification, Language


Arrays = dict[str, np.ndarray]
BETA = 0.9
OPTIMIZERS = {
    "AdamW": functools.partial(dx.adamw, b1=BETA, b2=compensation.B2),
    "SGDW": functools.partial(dx.sgdw, momentum=BETA),
    "plain-SGDW": dx.sgdw,
}
UNUSED_EPOCH = 10_000  # no run trains so long; (b) measures on its batches
TEXT = Language(
    data=corpus.shakespeare,
    model=functools.partial(sandwich, 84, 32, 32, 4, 2),
    symbols=84,
    length=32,
    batch=8,
    steps_per_epoch=20,
)
DIGITS = Classification(
    data=digits.load,
    model=functools.partial(resnet, 8, 2, digits.CLASSES),
    classes=digits.CLASSES,
    train_size=640,
    batch=32,
    label_noise=0.4,
)
ADDITION = Classification(
    data=functools.partial(modular.load, 11),
    model=functools.partial(sandwich, 12, 3, 16, 2, 1),
    classes=11,
    train_size=48,
    batch=8,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SymmetryPlan:
    """All that determines the numbers."""

    networks: dict[str, Setup]
    tiny_eps: float = 1e-20  # of the norms, in the limit of no ε
    # (a)
    points: dict[str, tuple[tuple[float, float], ...]]  # optimizer -> (γ, λ)
    betas: dict[str, float]  # optimizer -> β of the gradients
    starts: tuple[float, float] = (0.5, 2.0)  # factors of the initial weights
    timescales: float = 4.0  # length of a run, in 1/(γλ)
    # (b)
    trained_epochs: int = 20
    exponents: int = 10  # c = 1, 1/2, ..., 2^-exponents
    step_factor: float = 0.5
    # (c)
    rates: dict[str, tuple[float, float]]  # base -> γ, λ
    epochs: int = 20
    exact_seeds: int = 4
    exact_epochs: int = 10
    first_seed: int = 100
    seeds: int = 12
    chunk: int = 24  # not used: all seeds run in parallel

    def all_seeds(self, count: int | None = None) -> np.ndarray:
        """The seeds of a measurement."""
        return self.first_seed + np.arange(count or self.seeds, dtype=np.int32)

    def without_eps(self, setup: Setup) -> Setup:
        """The setup with a tiny ε in all norms."""
        make: Callable[..., AnyModel] = setup.model
        model = functools.partial(make, eps=self.tiny_eps)
        return dataclasses.replace(setup, model=model)


FULL = SymmetryPlan(
    networks={"transformer": TEXT, "ResNet": DIGITS},
    points={
        "AdamW": ((0.01, 0.25), (0.02, 0.25)),
        "SGDW": ((0.1, 0.025), (0.2, 0.025)),
        "plain-SGDW": ((0.5, 0.005), (0.5, 0.01)),
    },
    betas={"AdamW": BETA, "SGDW": BETA, "plain-SGDW": 0.0},
    rates={SGD: (0.1, 0.05), ADAM: (5e-3, 1.0)},
)
SMOKE = dataclasses.replace(
    FULL,
    networks={"transformer": ADDITION},
    points={"AdamW": ((0.1, 0.5),), "SGDW": ((0.2, 0.25),)},
    timescales=2.0,
    trained_epochs=1,
    exponents=2,
    epochs=1,
    exact_seeds=2,
    exact_epochs=1,
    seeds=2,
)


def study(plan: SymmetryPlan) -> Study:
    """Measurements only: nothing is tuned."""
    measurements = []
    for name, setup in plan.networks.items():
        parts = {
            f"scaling-{name}": functools.partial(scale_leaves, plan, setup),
            f"exact-{name}": functools.partial(train_exactly, plan, setup),
        }
        for base in plan.rates:
            measure = functools.partial(train_compensated, plan, setup, base)
            parts[f"training-{name}-{base}"] = measure
        for optimizer in plan.points:
            measure = functools.partial(find_equilibria, plan, setup, optimizer)
            parts[f"equilibrium-{name}-{optimizer}"] = measure
        measurements += [Measurement(key, measure) for key, measure in parts.items()]
    return Study(
        name="symmetry",
        plan=plan,
        stages=(Stage("measurements", 0, lambda _: measurements),),
        report=write_report,
        setups=tuple(plan.networks.values()),
    )


# --- (a) --------------------------------------------------------------------------


def find_equilibria(
    plan: SymmetryPlan,
    setup: Setup,
    optimizer: str,
    cache: CompilationCache,
    progress: Progress,
) -> Arrays:
    """The norms and angles at the end of training, [points, starts, seeds, leaves]."""
    progress.set_description(f"equilibrium, {optimizer}")
    network, kinds = network_of(setup), kinds_of(setup, plan.first_seed)
    seeds, starts = plan.all_seeds(), np.array(plan.starts, np.float32)
    shape, parallel = (len(starts), len(seeds)), len(starts) * len(seeds)
    made = equilibria.trainer(cache, network, OPTIMIZERS[optimizer], parallel)
    found, curves = [], []
    for rate, decay in plan.points[optimizer]:
        cells = {
            "seed": np.tile(seeds, len(starts)),
            "start": np.repeat(starts, len(seeds)),
            "learning_rate": np.full(parallel, rate, np.float32),
            "weight_decay": np.full(parallel, decay, np.float32),
        }
        steps = plan.timescales / (rate * decay)
        epochs = round(steps / setup.task().steps_per_epoch)
        trained = equilibria.train(made, cells, epochs, progress)
        arrays = equilibria.equilibrium(trained, kinds)
        arrays["loss"] = trained.losses[:, -1]
        found.append({n: x.reshape(*shape, *x.shape[1:]) for n, x in arrays.items()})
        norms = trained.norms.reshape(*shape, *trained.norms.shape[1:])
        curves.append(np.median(norms[:, :, ::2], 1).astype(np.float32))
    stacked = {name: np.stack([each[name] for each in found]) for name in found[0]}
    # Only the curves of the first point are drawn: medians over seeds.
    return kinds.arrays() | stacked | {"curves": curves[0]}


# --- (b) --------------------------------------------------------------------------


def scale_leaves(
    plan: SymmetryPlan, setup: Setup, cache: CompilationCache, progress: Progress
) -> Arrays:
    """The changes of the logits, the loss and the next step."""
    progress.set_description("decay without gradients")
    network, kinds = network_of(setup), kinds_of(setup, plan.first_seed)
    seeds = plan.all_seeds()
    made = equilibria.trainer(cache, network, OPTIMIZERS["AdamW"], len(seeds))
    rate, decay = plan.points["AdamW"][0]
    numbers = {"start": 1.0, "learning_rate": rate, "weight_decay": decay}
    cells = {n: np.full(len(seeds), x, np.float32) for n, x in numbers.items()}
    cells["seed"] = seeds
    params = equilibria.train(made, cells, plan.trained_epochs, progress).params
    examples = jax.jit(jax.vmap(network.examples, (0, None, None)))
    batches = examples(seeds, UNUSED_EPOCH, network.data)
    first = jax.tree.map(lambda x: x[:, 0], batches)
    chosen, factors = scaling.directions(kinds), 0.5 ** np.arange(plan.exponents + 1)
    exponents = np.stack(list(chosen.values()))
    found = scaling.changes(cache, network, params, first, exponents, factors)
    limit = network_of(plan.without_eps(setup))
    without_eps = scaling.changes(cache, limit, params, first, exponents, factors)
    ratios = scaling.step_ratios(cache, network, params, batches, plan.step_factor)
    return kinds.arrays() | {
        "directions": np.array(list(chosen)),
        "factors": factors,
        **found,
        "logits without eps": without_eps["logits"],
        **{f"step/{name}": ratio for name, ratio in ratios.items()},
    }


# --- (c) --------------------------------------------------------------------------


def train_compensated(
    plan: SymmetryPlan,
    setup: Setup,
    base: str,
    cache: CompilationCache,
    progress: Progress,
) -> Arrays:
    """All arms in float32 with the ε of the model, for invariant and other leaves."""
    progress.set_description(f"decay or learning rate, {base}")
    runs, seeds = compensation.runs_of(base), plan.all_seeds()
    invariant = kinds_of(setup, plan.first_seed).is_a(INVARIANT)
    losses = compensation.train_runs(
        compensation.Training(cache, network_of(setup), base, *plan.rates[base]),
        runs,
        invariant,
        seeds,
        plan.epochs,
    )
    return compensation.names_of(runs) | compensation.summary(runs, losses)


def train_exactly(
    plan: SymmetryPlan, setup: Setup, cache: CompilationCache, progress: Progress
) -> Arrays:
    """Decay and its exact compensation in float64 without ε, for invariant leaves."""
    progress.set_description("decay or learning rate, float64")
    wanted = {SGD: MATCHED, MOMENTUM: EXACT, ADAM: EXACT}
    limit = network_of(plan.without_eps(setup))
    invariant = kinds_of(setup, plan.first_seed).is_a(INVARIANT)
    bases, differences = [], []
    for base in plan.rates:
        runs = [
            run
            for run in compensation.runs_of(base)
            if run.leaves == INVARIANT and run.arm in (DECAY, wanted[run.base])
        ]
        losses = compensation.train_runs(
            compensation.Training(cache, limit, base, *plan.rates[base]),
            runs,
            invariant,
            plan.all_seeds(min(plan.exact_seeds, plan.seeds)),
            plan.exact_epochs,
            dtype="float64",
        )
        # Each decay is followed by its compensation.
        decay, compensated = losses[::2], losses[1::2]
        bases += [run.base for run in runs[::2]]
        differences.append(np.max(np.abs(compensated - decay) / decay, (1, 2)))
    return {"base": np.array(bases), "difference": np.concatenate(differences)}
