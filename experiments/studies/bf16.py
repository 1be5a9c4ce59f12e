"""Does weight decay survive bfloat16, and what does it take?

Question    Weights in bfloat16 are rounded after each step. How much of a decay of γλ
            is left, with and without a cure, and does a network trained in pure
            bfloat16 end where the float32 run ends?
Command     python -m experiments bf16        (--smoke for a run of seconds)
Cost        about two minutes on 2 CPU cores
Expected    Below γλ = 0.002 plain bfloat16 decays nothing, float32 arithmetic inside
            the optimizer or not. Stochastic rounding and compensation decay as float32
            does, and so do the norms of the trained weights.
Reference   Zamirai et al., *Revisiting BFloat16 Training*,
            https://arxiv.org/abs/2010.06192

Part 1 decays normal weights without gradients for 1000 steps of optax.adamw. Part 2
trains the network of the demo, all of it in bfloat16: same seeds, same rate, same
strengths for every arm; nothing is tuned, as the question is whether the runs agree.
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
from experiments.digits_plan import DigitsPlan
from experiments.engine.chunks import Bar, Piece
from experiments.engine.plan import Block, Cell, Chain, grid
from experiments.engine.study import Stage, Study
from experiments.engine.workshop import Workshop
from experiments.reports.bf16 import (
    claims as claims,
    write_report as write_report,
)


Optimizer = optax.GradientTransformationExtraArgs
Wrap = Callable[[Optimizer], Optimizer]
TRAINING, DECAYING, MEMORY = "training", "without gradients", "memory"
BFLOAT16_DIGITS = 8  # of a weight, with the leading one


class Arm(NamedTuple):
    """A dtype of everything, and what is put around optax.adamw."""

    name: str
    dtype: str
    wrap: Wrap

    @property
    def chain(self) -> Chain:
        """For the engine."""
        return functools.partial(scheduled, functools.partial(wrapped, self.wrap))


def wrapped(
    wrap: Wrap, learning_rate: Any, *, weight_decay: Any, mask: Any
) -> Optimizer:
    """AdamW in a wrapper."""
    adamw = optax.adamw(learning_rate, weight_decay=weight_decay, mask=mask)
    return wrap(optax.with_extra_args_support(adamw))


def float32_inside(optimizer: Optimizer) -> Optimizer:
    """Gradients, weights and moments in float32; the step rounded to the nearest."""

    def wide(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return optimizer.update(wide(updates), state, wide(params), **extra)

    return Optimizer(lambda params: optimizer.init(wide(params)), update)


def itself(optimizer: Optimizer) -> Optimizer:
    return optimizer


def with_narrow_moments(wrap: Wrap, optimizer: Optimizer) -> Optimizer:
    return wrap(dx.with_state_dtype(optimizer, jnp.bfloat16))


def narrow(wrap: Wrap) -> Wrap:
    """The same with moments in bfloat16."""
    return functools.partial(with_narrow_moments, wrap)


ARMS = (
    Arm("float32", "float32", itself),
    Arm("bf16", "bfloat16", itself),
    Arm("bf16, float32 inside", "bfloat16", float32_inside),
    Arm("stochastic", "bfloat16", dx.with_stochastic_rounding),
    Arm("compensated", "bfloat16", dx.with_compensation),
    Arm("stochastic, moments too", "bfloat16", narrow(dx.with_stochastic_rounding)),
    Arm("compensated, moments too", "bfloat16", narrow(dx.with_compensation)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(DigitsPlan):
    """All that decides the numbers."""

    arms: tuple[str, ...] = tuple(arm.name for arm in ARMS)
    rates: tuple[float, ...]  # γλ of part 1
    kept_steps: int = 1000
    kept_weights: int = 2**16
    learning_rate: float = 1e-3  # peak, in both parts
    weight_decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    first_seed: int = 0
    seeds: int = 10
    epochs: int = 200
    epochs_per_segment: int = 200
    chunk: int = 16

    def chosen(self) -> list[Arm]:
        """The arms by these names."""
        named = {arm.name: arm for arm in ARMS}
        return [named[name] for name in self.arms]

    def cells(self) -> tuple[Cell, ...]:
        """The runs of an arm in part 2."""
        return grid(
            learning_rate=[self.learning_rate],
            weight_decay=self.weight_decays,
            seed=range(self.first_seed, self.first_seed + self.seeds),
        )


FULL = Plan(rates=(1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2))
SMOKE = Plan(
    arms=("float32", "bf16", "bf16, float32 inside", "stochastic", "compensated"),
    rates=(1e-4, 1e-2),
    kept_steps=100,
    kept_weights=2**12,
    weight_decays=(0.0, 1.0),
    seeds=2,
    epochs=4,
    epochs_per_segment=4,
    chunk=4,
)


def study(plan: Plan) -> Study:
    """Part 2 first, as it is the longer."""
    count = len(plan.arms)
    return Study(
        name="bf16",
        plan=plan,
        stages=(
            Stage(TRAINING, count * len(plan.cells()), lambda _: trained(plan)),
            Stage(DECAYING, 0, lambda _: decayed(plan)),
            Stage(MEMORY, 0, lambda _: [Piece("memory", memory(plan))]),
        ),
        report=write_report,
    )


def trained(plan: Plan) -> list[Block]:
    """Part 2: every arm on the same seeds."""
    return [
        Block({"arm": arm.name}, plan.static(arm.chain, arm.dtype), plan.cells())
        for arm in plan.chosen()
    ]


def decayed(plan: Plan) -> list[Piece]:
    """Part 1: weights without gradients, for every rate."""

    def piece(number: int, arm: Arm) -> Piece:
        def make(shop: Workshop, bar: Bar) -> dict[str, np.ndarray]:
            bar.say(f"decaying {arm.name}")
            found = [kept_share(plan, arm, rate) for rate in plan.rates]
            kept, carried = zip(*found, strict=True)
            bar.advance(1)
            return {
                "arm": np.array(arm.name),
                "rate": np.array(plan.rates),  # γλ
                "kept": np.array(kept),  # by regression on the initial weights
                "carried": np.array(carried),  # the same with the residual
                "exact": (1 - np.array(plan.rates)) ** plan.kept_steps,
            }

        return Piece(f"kept-{number}", make)

    return [piece(number, arm) for number, arm in enumerate(plan.chosen())]


def kept_share(plan: Plan, arm: Arm, rate: float) -> tuple[float, float]:
    """What is left of an arm's weights after `kept_steps` steps without gradients.

    Of the weights alone, and of the weights with the residual that compensation keeps.
    """
    weights = jax.random.normal(jax.random.key(0), (plan.kept_weights,))
    kept, carried = _kept(plan.kept_steps, plan.learning_rate, arm, weights, rate)
    return float(kept), float(carried)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _kept(
    steps: int, learning_rate: float, arm: Arm, weights: jax.Array, rate: Any
) -> tuple[jax.Array, jax.Array]:
    weights = weights.astype(arm.dtype)
    strength = rate / learning_rate
    optimizer = wrapped(arm.wrap, learning_rate, weight_decay=strength, mask=None)

    def step(_: Any, carry: Any) -> Any:
        params, state = carry
        still = jnp.zeros_like(params)
        updates, state = optimizer.update(still, state, params)
        return optax.apply_updates(params, updates), state

    carry = weights, optimizer.init(weights)
    params, state = jax.lax.fori_loop(0, steps, step, carry)
    before, after = (x.astype(jnp.float32) for x in (weights, params))
    square = jnp.vdot(before, before)
    residual = optax.tree_utils.tree_get(state, "residual")
    left = after if residual is None else after + in_numbers(after, residual)
    return jnp.vdot(before, after) / square, jnp.vdot(before, left) / square


def in_numbers(weight: jax.Array, residual: jax.Array) -> jax.Array:
    """A residual as `dx.with_compensation` has it: in 65536ths of the weight's gap."""
    _, exponent = jnp.frexp(weight)  # |weight| in [2^(exponent - 1), 2^exponent)
    gap = jnp.ldexp(jnp.float32(1), exponent - BFLOAT16_DIGITS)
    return residual.astype(jnp.float32) / 2**16 * gap


def memory(plan: Plan) -> Callable[[Workshop, Bar], dict[str, np.ndarray]]:
    """Bytes per weight between steps, from the arrays themselves; no gradients."""

    def make(shop: Workshop, bar: Bar) -> dict[str, np.ndarray]:
        bar.say("counting bytes")
        found = np.array([bytes_per_weight(plan, arm) for arm in plan.chosen()])
        names = np.array([arm.name for arm in plan.chosen()])
        bar.advance(1)
        return {"arm": names, "weights": found[:, 0], "state": found[:, 1]}

    return make


def bytes_per_weight(plan: Plan, arm: Arm) -> tuple[float, float]:
    """Of weights and of the optimizer's state."""
    task = plan.recipe(arm.dtype).task()
    params = jax.eval_shape(task.init, {"seed": jnp.int32(0)})
    optimizer = wrapped(arm.wrap, 1e-3, weight_decay=0.1, mask=None)
    state = jax.eval_shape(optimizer.init, params)

    def size(tree: Any) -> int:
        leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]
        return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves)

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return size(params) / count, round(size(state) / count, 2)
