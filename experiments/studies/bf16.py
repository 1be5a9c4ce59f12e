"""Does weight decay survive bfloat16?

Question    Weights in bfloat16 are rounded after each step. How much of a decay of γλ
            remains, with and without stochastic rounding or compensation? Does a
            network trained in pure bfloat16 reach the weights and the loss of the
            float32 run?
Command     python -m experiments bf16        (--smoke for a run of seconds)
Cost        about two minutes on 2 CPU cores
Expected    Below γλ = 0.002 plain bfloat16 does not decay, with or without float32
            arithmetic inside the optimizer. Stochastic rounding and compensation decay
            like float32, and the trained weights have the same norm.
Reference   Zamirai et al., *Revisiting BFloat16 Training*,
            https://arxiv.org/abs/2010.06192

Part 1 decays normal weights without gradients for 1000 steps of optax.adamw. Part 2
trains the network of the demo in bfloat16. All arms have the same seeds, learning rate
and strengths. Nothing is tuned, because the question is whether the runs agree.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx
from experiments.arms import scheduled
from experiments.engine.compilation_cache import CompilationCache
from experiments.engine.config import grid, HParams, OptimizerFactory, SweepGroup
from experiments.engine.study import Stage, Study
from experiments.engine.training import Measurement, Progress
from experiments.reports.bf16 import (
    claims as claims,
    write_report as write_report,
)
from experiments.training_setups import DigitsPlan


Optimizer = optax.GradientTransformationExtraArgs
Wrap = Callable[[Optimizer], Optimizer]
TRAINING, DECAYING, MEMORY = "training", "without gradients", "memory"
BFLOAT16_DIGITS = 8  # bits of the significand, with the implicit leading one


class RoundingArm(NamedTuple):
    """The dtype of a network, and the wrapper of optax.adamw."""

    name: str
    dtype: str
    wrap: Wrap

    @property
    def make_optimizer(self) -> OptimizerFactory:
        """The arm as a function of hyper-parameters, schedule and mask."""
        return functools.partial(scheduled, functools.partial(wrapped, self.wrap))


def wrapped(
    wrap: Wrap, learning_rate: Any, *, weight_decay: Any, mask: Any
) -> Optimizer:
    """AdamW inside a wrapper."""
    adamw = optax.adamw(learning_rate, weight_decay=weight_decay, mask=mask)
    return wrap(optax.with_extra_args_support(adamw))


def float32_inside(optimizer: Optimizer) -> Optimizer:
    """Float32 gradients, weights and moments; apply_updates rounds to nearest."""

    def to_float32(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

    def init(params: Any) -> Any:
        return optimizer.init(to_float32(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return optimizer.update(to_float32(updates), state, to_float32(params), **extra)

    return Optimizer(init, update)


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """No wrapper."""
    return optimizer


def stochastic_with_bf16_moments(optimizer: Optimizer) -> Optimizer:
    """Stochastic rounding of the weights and of moments in bfloat16."""
    return dx.with_stochastic_rounding(dx.with_state_dtype(optimizer, jnp.bfloat16))


def compensated_with_bf16_moments(optimizer: Optimizer) -> Optimizer:
    """Compensation for the weights, stochastic rounding of moments in bfloat16."""
    return dx.with_compensation(dx.with_state_dtype(optimizer, jnp.bfloat16))


ARMS = (
    RoundingArm("float32", "float32", unwrapped),
    RoundingArm("bf16", "bfloat16", unwrapped),
    RoundingArm("bf16, float32 inside", "bfloat16", float32_inside),
    RoundingArm("stochastic", "bfloat16", dx.with_stochastic_rounding),
    RoundingArm("compensated", "bfloat16", dx.with_compensation),
    RoundingArm("stochastic, moments too", "bfloat16", stochastic_with_bf16_moments),
    RoundingArm("compensated, moments too", "bfloat16", compensated_with_bf16_moments),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bf16Plan(DigitsPlan):
    """All that determines the numbers."""

    arms: tuple[str, ...] = tuple(arm.name for arm in ARMS)
    rates: tuple[float, ...]  # γλ of part 1
    decay_steps: int = 1000  # of part 1
    decay_weights: int = 2**16  # of part 1
    learning_rate: float = 1e-3  # peak, in both parts
    weight_decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    first_seed: int = 0
    seeds: int = 10
    epochs: int = 200
    epochs_per_segment: int = 200
    chunk: int = 16

    def chosen(self) -> list[RoundingArm]:
        """The arms with these names."""
        named = {arm.name: arm for arm in ARMS}
        return [named[name] for name in self.arms]

    def cells(self) -> tuple[HParams, ...]:
        """The runs of an arm in part 2."""
        return grid(
            learning_rate=[self.learning_rate],
            weight_decay=self.weight_decays,
            seed=range(self.first_seed, self.first_seed + self.seeds),
        )


FULL = Bf16Plan(rates=(1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2))
SMOKE = Bf16Plan(
    arms=("float32", "bf16", "bf16, float32 inside", "stochastic", "compensated"),
    rates=(1e-4, 1e-2),
    decay_steps=100,
    decay_weights=2**12,
    weight_decays=(0.0, 1.0),
    seeds=2,
    epochs=4,
    epochs_per_segment=4,
    chunk=4,
)


def study(plan: Bf16Plan) -> Study:
    """Part 2 comes first, because it takes longer."""
    count = len(plan.arms)
    return Study(
        name="bf16",
        plan=plan,
        stages=(
            Stage(TRAINING, count * len(plan.cells()), lambda _: training_groups(plan)),
            Stage(DECAYING, 0, lambda _: decay_measurements(plan)),
            Stage(MEMORY, 0, lambda _: [memory_measurement(plan)]),
        ),
        report=write_report,
    )


def training_groups(plan: Bf16Plan) -> list[SweepGroup]:
    """Part 2: every arm on the same seeds."""
    return [
        SweepGroup(
            {"arm": arm.name}, plan.config(arm.make_optimizer, arm.dtype), plan.cells()
        )
        for arm in plan.chosen()
    ]


def decay_measurements(plan: Bf16Plan) -> list[Measurement]:
    """Part 1: weights without gradients, for every rate."""

    def measurement(number: int, arm: RoundingArm) -> Measurement:
        def measure(
            cache: CompilationCache, progress: Progress
        ) -> dict[str, np.ndarray]:
            progress.set_description(f"decaying {arm.name}")
            found = [retained_fractions(plan, arm, rate) for rate in plan.rates]
            weights, with_residual = zip(*found, strict=True)
            progress.advance(1)
            return {
                "arm": np.array(arm.name),
                "rate": np.array(plan.rates),  # γλ
                "weights": np.array(weights),
                "with_residual": np.array(with_residual),
                "exact": (1 - np.array(plan.rates)) ** plan.decay_steps,
            }

        return Measurement(f"retained-{number}", measure)

    return [measurement(number, arm) for number, arm in enumerate(plan.chosen())]


def retained_fractions(
    plan: Bf16Plan, arm: RoundingArm, rate: float
) -> tuple[float, float]:
    """The fraction of the weights that remains after all steps without gradients.

    Without and with the residual that compensation stores. The fraction is the
    coefficient of a regression on the initial weights.
    """
    initial = jax.random.normal(jax.random.key(0), (plan.decay_weights,))
    found = _retained(plan.decay_steps, plan.learning_rate, arm, initial, rate)
    weights, with_residual = found
    return float(weights), float(with_residual)


# The rate is traced, so all rates of an arm share one compilation.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _retained(
    steps: int, learning_rate: float, arm: RoundingArm, initial: jax.Array, rate: Any
) -> tuple[jax.Array, jax.Array]:
    initial = initial.astype(arm.dtype)
    strength = rate / learning_rate
    optimizer = wrapped(arm.wrap, learning_rate, weight_decay=strength, mask=None)

    def step(_: Any, carry: Any) -> Any:
        params, state = carry
        gradient = jnp.zeros_like(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    carry = initial, optimizer.init(initial)
    params, state = jax.lax.fori_loop(0, steps, step, carry)
    before, after = initial.astype(jnp.float32), params.astype(jnp.float32)
    # A regression without offset has the coefficient <before, after>/<before, before>.
    square = jnp.vdot(before, before)
    residual = optax.tree_utils.tree_get(state, "residual")
    total = after if residual is None else after + residual_value(after, residual)
    return jnp.vdot(before, after) / square, jnp.vdot(before, total) / square


def residual_value(weight: jax.Array, residual: jax.Array) -> jax.Array:
    """The value of a residual of `dx.with_compensation`, stored in ulp / 2^16."""
    _, exponent = jnp.frexp(weight)  # |weight| in [2^(exponent - 1), 2^exponent)
    ulp = jnp.ldexp(jnp.float32(1), exponent - BFLOAT16_DIGITS)
    return residual.astype(jnp.float32) / 2**16 * ulp


def memory_measurement(plan: Bf16Plan) -> Measurement:
    """Bytes per weight between steps, without gradients."""

    def measure(cache: CompilationCache, progress: Progress) -> dict[str, np.ndarray]:
        progress.set_description("counting bytes")
        found = np.array([bytes_per_weight(plan, arm) for arm in plan.chosen()])
        names = np.array([arm.name for arm in plan.chosen()])
        progress.advance(1)
        return {"arm": names, "weights": found[:, 0], "state": found[:, 1]}

    return Measurement("memory", measure)


def bytes_per_weight(plan: Bf16Plan, arm: RoundingArm) -> tuple[float, float]:
    """Bytes of the weights and of the optimizer's state, counted from the arrays."""
    task = plan.setup(arm.dtype).task()
    params = jax.eval_shape(task.init, {"seed": jnp.int32(0)})
    optimizer = wrapped(arm.wrap, 1e-3, weight_decay=0.1, mask=None)
    state = jax.eval_shape(optimizer.init, params)

    def size(tree: Any) -> int:
        # Counters and keys have no axes, and their size does not grow with the network.
        leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim > 0]
        return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves)

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return size(params) / count, round(size(state) / count, 2)
