"""Are L2 and weight decay the same thing?

Question    (a) Of a weight that gets no gradient, what do 400 steps leave, and does λ
            matter? (b) A network trained twice from the same start on the same batches,
            with λθ in the gradient and with λθ behind the preconditioner: how far apart
            do the two runs get, and is there another λ with which they would agree?
Command     python -m experiments same        (--smoke for a run of seconds)
Cost        under half a minute on 2 CPU cores
Expected    (a) With L2 under RMSprop and Adam λ cancels, over four decades: the step is
            λθ/√(average of λ²θ²). (b) The same up to rounding under plain SGD whatever
            the schedule; not under momentum, RMSprop and Adam, whatever the other λ.
Reference   Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            propositions 1 and 2, https://arxiv.org/abs/1711.05101

Nothing is tuned and nothing generalises here: these are statements about updates.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx
from experiments import arms
from experiments.engine import program
from experiments.engine.compilation_cache import CompilationCache, load_data
from experiments.engine.config import (
    constant,
    cosine,
    multiplier,
    OptimizerFactory,
    Task,
)
from experiments.engine.study import Stage, Study
from experiments.engine.training import Measurement, Progress
from experiments.reports.same import (
    claims as claims,
    write_report as write_report,
)
from experiments.training_setups import DigitsPlan


PLAIN_SGD = {
    "L2": functools.partial(arms.scheduled, dx.sgd_l2),
    "decoupled": functools.partial(arms.scheduled, dx.sgdw),
}
# By base: the same λθ at two places.
PAIRS: dict[str, dict[str, OptimizerFactory]] = {
    "SGD": PLAIN_SGD,
    "momentum": {"L2": arms.sgd_l2, "decoupled": arms.sgdw},
    "RMSprop": {"L2": arms.rmsprop_l2, "decoupled": arms.rmspropw},
    "Adam": {"L2": arms.adam_l2, "decoupled": arms.adamw},
}
SCHEDULES = {"constant": constant, "cosine": cosine}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamePlan(DigitsPlan):
    """All that decides the numbers."""

    # (a) without gradients
    still_rate: float = 1e-3
    still_decays: tuple[float, ...] = (1e-4, 1e-2, 1.0)
    still_steps: int = 400
    # (b) two runs of a network
    learning_rates: dict[str, float]
    schedules: tuple[str, ...] = ("constant", "cosine")
    weight_decay: float = 0.01
    ratios: tuple[float, ...]  # decoupled λ over λ of L2; 0 is no decay, 1 the same λ
    first_seed: int = 0
    seeds: int = 10
    steps: int = 100
    epochs: int = 6
    epochs_per_segment: int = 6
    chunk: int = 2


FULL = SamePlan(
    learning_rates={"SGD": 0.1, "momentum": 0.01, "RMSprop": 1e-3, "Adam": 1e-3},
    ratios=(0.0, *(2.0**k for k in range(-4, 13))),
)
SMOKE = dataclasses.replace(
    FULL,
    learning_rates={"SGD": 0.1, "Adam": 1e-3},
    schedules=("cosine",),
    ratios=(0.0, 1.0, 8.0),
    seeds=4,
    steps=20,
    epochs=2,
)


def study(plan: SamePlan) -> Study:
    """Measurements only, no runs to choose from."""
    pairs = [(base, rate) for base in plan.learning_rates for rate in plan.schedules]
    still = Measurement("still", functools.partial(without_gradients, plan))
    over_seeds = jax.vmap(functools.partial(start_of_seed, plan), (0, None))
    begin = jax.jit(over_seeds, compiler_options=program.FAST_COMPILE)
    apart = [
        Measurement(f"apart-{b}-{s}", functools.partial(two_runs, plan, b, s, begin))
        for b, s in pairs
    ]
    return Study(
        name="same",
        plan=plan,
        stages=(Stage("measurements", 0, lambda _: [still, *apart]),),
        report=write_report,
        setups=(plan.setup(),),
    )


def without_gradients(
    plan: SamePlan, cache: CompilationCache, progress: Progress
) -> dict[str, np.ndarray]:
    """(a): a weight of 1 after every step, by base, place and λ."""
    progress.set_description("without gradients")
    found = {
        f"{base}/{place}": _still(plan, make_optimizer)
        for base, optimizers in PAIRS.items()
        for place, make_optimizer in optimizers.items()
    }
    progress.advance(1)
    return found


def _still(plan: SamePlan, make_optimizer: OptimizerFactory) -> np.ndarray:
    """float32[λ, steps + 1]: the weight, which begins as 1."""

    @jax.jit
    @jax.vmap
    def run(strength: jax.Array) -> jax.Array:
        hparams = {"learning_rate": plan.still_rate, "weight_decay": strength}
        optimizer = make_optimizer(hparams, lambda step: jnp.float32(1), None)

        def step(carry: Any, _: None) -> Any:
            theta, state = carry
            updates, state = optimizer.update(jnp.zeros(()), state, theta)
            return (optax.apply_updates(theta, updates), state), theta

        theta = jnp.ones(())
        start = theta, optimizer.init(theta)
        end, thetas = jax.lax.scan(step, start, length=plan.still_steps)
        return jnp.append(thetas, end[0])

    return np.asarray(run(jnp.array(plan.still_decays)))


def start_of_seed(plan: SamePlan, seed: jax.Array, data: Any) -> tuple[Any, Any, Any]:
    """Shared by all pairs of a seed: split, initial parameters, batches."""
    task, hparams = plan.setup().task(), {"seed": seed}
    batches = program.draw_epochs(task, plan.epochs, seed, 0, data)[: plan.steps]
    return task.run_data(hparams, data), task.init(hparams), batches


def two_runs(
    plan: SamePlan,
    base: str,
    schedule: str,
    begin: Callable[..., tuple[Any, Any, Any]],
    cache: CompilationCache,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """(b): how far the runs of a pair get from one another, [ratios, seeds].

    max over the steps of ‖θ_L2 − θ_decoupled‖ / ‖θ_L2‖, all parameters together.
    """
    progress.set_description(f"{base}, {schedule}")
    setup = plan.setup()
    data, task = load_data(cache, setup), setup.task()
    loss = functools.partial(_loss, task)
    config = plan.config(PAIRS[base]["L2"])._replace(schedule=SCHEDULES[schedule])

    def distance(
        ratio: jax.Array, run_data: Any, params: Any, batches: Any, data: Any
    ) -> jax.Array:
        decays = {"L2": plan.weight_decay, "decoupled": plan.weight_decay * ratio}
        optimizers = []
        for place, make_optimizer in PAIRS[base].items():
            rate, decay = plan.learning_rates[base], jnp.float32(decays[place])
            hparams = {"learning_rate": rate, "weight_decay": decay}
            eta = multiplier(config, task.steps_per_epoch, hparams)
            optimizers.append(make_optimizer(hparams, eta, task.mask))

        def step(runs: Any, batch: Any) -> Any:
            runs = [
                _step(optimizer, loss, run, batch, run_data, data)
                for optimizer, run in zip(optimizers, runs, strict=True)
            ]
            (first, _), (second, _) = runs
            apart = optax.tree.norm(optax.tree.sub(first, second))
            return runs, apart / optax.tree.norm(first)

        start = [(params, optimizer.init(params)) for optimizer in optimizers]
        return jnp.max(jax.lax.scan(step, start, batches)[1])

    over_seeds = jax.vmap(distance, (None, 0, 0, 0, None))
    over_all = jax.jit(jax.vmap(over_seeds, (0, None, None, None, None)))
    seeds = plan.first_seed + jnp.arange(plan.seeds, dtype=jnp.int32)
    begun = time.perf_counter()
    ratios = jnp.asarray(plan.ratios, jnp.float32)
    arguments = (ratios, *begin(seeds, data), data)
    compiled = over_all.lower(*arguments).compile(program.FAST_COMPILE)
    cache.compile_seconds.append(time.perf_counter() - begun)
    found = jax.device_get(compiled(*arguments))
    progress.advance(1)
    return {"ratio": np.array(plan.ratios), "distance": np.asarray(found)}


def _loss(task: Task, params: Any, batch: Any, run_data: Any, data: Any) -> jax.Array:
    """Of a perceptron, which has no state and draws no random numbers."""
    return task.loss(params, (), batch, None, run_data, data)[0]


def _step(
    optimizer: Any, loss: Callable[..., jax.Array], run: Any, *rest: Any
) -> tuple[Any, Any]:
    params, state = run
    updates, state = optimizer.update(jax.grad(loss)(params, *rest), state, params)
    return optax.apply_updates(params, updates), state
