"""Are L2 and weight decay the same thing?

Question    (a) How large is a weight without gradients after 400 steps, and does λ
            matter? (b) Two runs of a network have the same initial weights and batches.
            One adds λθ to the gradient, the other adds λθ after the preconditioner. How
            far apart do they get, and does another λ make them equal?
Command     python -m experiments same        (--smoke for a run of seconds)
Cost        under half a minute on 2 CPU cores
Expected    (a) With L2 under RMSprop and Adam λ cancels, over four decades of λ: the
            step is λθ/√(average of λ²θ²). (b) Under plain SGD the runs are equal up to
            rounding, for both schedules. Under momentum, RMSprop and Adam they differ,
            for every other λ.
Reference   Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            propositions 1 and 2, https://arxiv.org/abs/1711.05101

Nothing is tuned. The results are about updates, not about accuracy.
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
from experiments.engine import one_run, program
from experiments.engine.compilation_cache import CompilationCache, load_data
from experiments.engine.config import (
    constant,
    cosine,
    multiplier,
    OptimizerFactory,
    Schedule,
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
# By base optimizer: L2 and decoupled decay.
PAIRS: dict[str, dict[str, OptimizerFactory]] = {
    "SGD": PLAIN_SGD,
    "momentum": {"L2": arms.sgd_l2, "decoupled": arms.sgdw},
    "RMSprop": {"L2": arms.rmsprop_l2, "decoupled": arms.rmspropw},
    "Adam": {"L2": arms.adam_l2, "decoupled": arms.adamw},
}
SCHEDULES = {"constant": constant, "cosine": cosine}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamePlan(DigitsPlan):
    """All that determines the numbers."""

    # (a) an idle weight: a weight without gradients
    idle_learning_rate: float = 1e-3
    idle_decays: tuple[float, ...] = (1e-4, 1e-2, 1.0)
    idle_steps: int = 400
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
    """Measurements only: nothing is tuned."""
    over_seeds = jax.vmap(functools.partial(start_of_seed, plan), (0, None))
    start = jax.jit(over_seeds, compiler_options=program.FAST_COMPILE)
    measurements = [Measurement("idle", functools.partial(idle_weights, plan))]
    for base in plan.learning_rates:
        for schedule in plan.schedules:
            measure = functools.partial(distances, plan, base, schedule, start)
            measurements.append(Measurement(f"distance-{base}-{schedule}", measure))
    return Study(
        name="same",
        plan=plan,
        stages=(Stage("measurements", 0, lambda _: measurements),),
        report=write_report,
        setups=(plan.setup(),),
    )


def idle_weights(
    plan: SamePlan, cache: CompilationCache, progress: Progress
) -> dict[str, np.ndarray]:
    """(a): a weight without gradients after every step, by base, place and λ."""
    progress.set_description("weights without gradients")
    found = {
        f"{base}/{place}": _idle_weight(plan, make_optimizer)
        for base, optimizers in PAIRS.items()
        for place, make_optimizer in optimizers.items()
    }
    progress.advance(1)
    return found


def _idle_weight(plan: SamePlan, make_optimizer: OptimizerFactory) -> np.ndarray:
    """The weight from its initial value 1 on, float32[λ, steps + 1]."""

    @jax.jit
    @jax.vmap
    def run(strength: jax.Array) -> jax.Array:
        hparams = {"learning_rate": plan.idle_learning_rate, "weight_decay": strength}
        # A constant schedule and no mask.
        optimizer = make_optimizer(hparams, lambda step: jnp.float32(1), None)

        def step(carry: Any, _: None) -> Any:
            weight, state = carry
            updates, state = optimizer.update(jnp.zeros(()), state, weight)
            return (optax.apply_updates(weight, updates), state), weight

        start = jnp.ones(()), optimizer.init(jnp.ones(()))
        (last, _), weights = jax.lax.scan(step, start, length=plan.idle_steps)
        return jnp.append(weights, last)

    return np.asarray(run(jnp.array(plan.idle_decays)))


def start_of_seed(plan: SamePlan, seed: jax.Array, data: Any) -> tuple[Any, Any, Any]:
    """What all runs of a seed share: split, initial parameters, batches."""
    task, hparams = plan.setup().task(), {"seed": seed}
    batches = one_run.draw_epochs(task, plan.epochs, seed, 0, data)[: plan.steps]
    return task.run_data(hparams, data), task.init(hparams), batches


def distances(
    plan: SamePlan,
    base: str,
    schedule: str,
    start: Callable[..., tuple[Any, Any, Any]],
    cache: CompilationCache,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """(b): the distance of the two runs, float32[ratios, seeds]."""
    progress.set_description(f"{base}, {schedule}")
    data = load_data(cache, plan.setup())
    distance = functools.partial(_distance, plan, base, SCHEDULES[schedule])
    # All ratios and seeds run in one program: [ratios, seeds].
    over_seeds = jax.vmap(distance, (None, 0, 0, 0, None))
    over_all = jax.jit(jax.vmap(over_seeds, (0, None, None, None, None)))
    seeds = plan.first_seed + jnp.arange(plan.seeds, dtype=jnp.int32)
    started = time.perf_counter()
    ratios = jnp.asarray(plan.ratios, jnp.float32)
    arguments = (ratios, *start(seeds, data), data)
    compiled = over_all.lower(*arguments).compile(program.FAST_COMPILE)
    cache.compile_seconds.append(time.perf_counter() - started)
    found = jax.device_get(compiled(*arguments))
    progress.advance(1)
    return {"ratio": np.array(plan.ratios), "distance": np.asarray(found)}


def _distance(
    plan: SamePlan,
    base: str,
    schedule: Schedule,
    ratio: jax.Array,
    run_data: Any,
    params: Any,
    batches: Any,
    data: Any,
) -> jax.Array:
    """The largest ‖θ_L2 − θ_decoupled‖ / ‖θ_L2‖ of all steps, over all parameters."""
    task = plan.setup().task()
    config = plan.config(PAIRS[base]["L2"])._replace(schedule=schedule)
    decays = {"L2": plan.weight_decay, "decoupled": plan.weight_decay * ratio}
    optimizers = []
    for place, make_optimizer in PAIRS[base].items():
        rate, decay = plan.learning_rates[base], jnp.float32(decays[place])
        hparams = {"learning_rate": rate, "weight_decay": decay}
        eta = multiplier(config, task.steps_per_epoch, hparams)
        optimizers.append(make_optimizer(hparams, eta, task.mask))

    def step(runs: Any, batch: Any) -> Any:
        after = []
        for optimizer, (theta, state) in zip(optimizers, runs, strict=True):
            grads = jax.grad(_loss, argnums=1)(task, theta, batch, run_data, data)
            updates, state = optimizer.update(grads, state, theta)
            after.append((optax.apply_updates(theta, updates), state))
        (l2, _), (decoupled, _) = after
        difference = optax.tree.norm(optax.tree.sub(l2, decoupled))
        return after, difference / optax.tree.norm(l2)

    runs = [(params, optimizer.init(params)) for optimizer in optimizers]
    _, by_step = jax.lax.scan(step, runs, batches)
    return jnp.max(by_step)


def _loss(task: Task, params: Any, batch: Any, run_data: Any, data: Any) -> jax.Array:
    """The loss of a perceptron, which has no state and uses no random numbers."""
    return task.loss(params, (), batch, None, run_data, data)[0]
