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
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx
from experiments import data as digits, engine, files, tasks
from experiments.terminal import Bar, Lap, progress, stopwatch


Optimizer = optax.GradientTransformationExtraArgs
Wrap = Callable[[Optimizer], Optimizer]


class Arm(NamedTuple):
    """A dtype of everything, and what is put around optax.adamw."""

    name: str
    dtype: str
    wrap: Wrap

    def chain(self, learning_rate: Any, *, weight_decay: Any, mask: Any) -> Optimizer:
        adamw = optax.adamw(learning_rate, weight_decay=weight_decay, mask=mask)
        return self.wrap(optax.with_extra_args_support(adamw))


class Kept(NamedTuple):
    """What is left of weights without gradients."""

    arm: str
    rate: float  # γλ
    kept: float  # by regression on the initial weights
    exact: float  # (1 − γλ)^steps


class Run(NamedTuple):
    """One trained network."""

    arm: str
    weight_decay: float
    seed: int
    train_loss: float
    val_accuracy: float
    test_accuracy: float
    rms_w: float
    max_abs_w: float
    diverged: bool


class Memory(NamedTuple):
    """Bytes per weight, gradients not counted."""

    arm: str
    weights: float
    state: float


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
class Plan(tasks.DigitsPlan):
    """All that decides the numbers."""

    rates: tuple[float, ...]  # γλ of part 1
    kept_steps: int = 1000
    kept_weights: int = 2**16
    learning_rate: float = 1e-3  # peak, in both parts
    weight_decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    seeds: int = 10
    epochs: int = 200
    epochs_per_segment: int = 50

    def cells(self) -> list[engine.Cell]:
        return [
            engine.Cell(self.learning_rate, strength, seed)
            for strength in self.weight_decays
            for seed in range(self.seeds)
        ]

    def count_runs(self) -> int:
        return len(ARMS) * len(self.cells())


FULL = Plan(rates=(1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2))
SMOKE = Plan(
    rates=(1e-4, 1e-2),
    kept_steps=100,
    kept_weights=2**12,
    weight_decays=(0.0, 1.0),
    seeds=2,
    epochs=4,
    epochs_per_segment=2,
)


def run(plan: Plan, out: Path, command: str, started: float) -> None:
    """Measure and train, write the raw results, make figures and report from them."""
    from experiments.bf16_report import conclusion, read, write_report

    lap, seconds = stopwatch(started)
    lap("imports")
    print(f"Weight decay in bfloat16: {len(ARMS)} arms, {plan.count_runs()} runs.")
    with progress(plan.count_runs()) as bar:
        kept = [measured for arm in ARMS for measured in decayed(plan, arm, bar)]
        lap("weights without gradients")
        runs = train(plan, bar, lap)
    origin = {"experiment": "bf16", "command": command, **files.provenance()}
    memory = [bytes_of(plan, arm)._asdict() for arm in ARMS]
    design = {"plan": dataclasses.asdict(plan), "memory": memory, "seconds": seconds}
    files.write_csv(out / "kept.csv", kept)
    files.write_csv(out / "cells.csv", runs)
    files.write_json(out / "manifest.json", origin | design)
    write_report(out)
    lap("figures and report")
    files.write_json(out / "manifest.json", origin | design)
    print(f"Verdict. {conclusion(read(out))}\n")
    for name in ("report.md", "cells.csv", "kept.csv", "manifest.json", "*.png"):
        print(f"  {out / name}")


def decayed(plan: Plan, arm: Arm, bar: Bar) -> list[Kept]:
    """Part 1: weights without gradients, for every rate."""
    bar.say(f"decaying {arm.name}")
    weights = jax.random.normal(jax.random.key(0), (plan.kept_weights,))
    weights = weights.astype(arm.dtype)

    @jax.jit
    def kept(rate: jax.Array) -> jax.Array:
        strength = rate / plan.learning_rate
        optimizer = arm.chain(plan.learning_rate, weight_decay=strength, mask=None)

        def step(_: Any, carry: Any) -> Any:
            params, state = carry
            still = jnp.zeros_like(params)
            updates, state = optimizer.update(still, state, params)
            return optax.apply_updates(params, updates), state

        carry = weights, optimizer.init(weights)
        params, _ = jax.lax.fori_loop(0, plan.kept_steps, step, carry)
        before, after = (x.astype(jnp.float32) for x in (weights, params))
        return jnp.vdot(before, after) / jnp.vdot(before, before)

    return [
        Kept(arm.name, rate, float(kept(rate)), (1.0 - rate) ** plan.kept_steps)
        for rate in plan.rates
    ]


def train(plan: Plan, bar: Bar, lap: Lap) -> list[Run]:
    """Part 2: every arm on the same seeds."""
    data = digits.load()
    cells = plan.cells()
    benches: dict[str, engine.Bench] = {}
    runs: list[Run] = []
    for arm in ARMS:
        bar.say(f"training {arm.name}")
        if arm.dtype not in benches:
            benches[arm.dtype] = engine.prepare_bench(
                plan.task(arm.dtype), plan.schedule(), data, len(cells)
            )
        program = engine.compile_program(benches[arm.dtype], arm.chain)
        measures = engine.train(program, cells, bar.advance).measures
        for index, cell in enumerate(cells):
            values = {name: measures[name][index].item() for name in measures}
            runs.append(Run(arm.name, cell.weight_decay, cell.seed, **values))
    lap("training")
    return runs


def bytes_of(plan: Plan, arm: Arm) -> Memory:
    """Bytes per weight that an arm keeps between steps, from the arrays themselves."""
    params = jax.eval_shape(plan.task(arm.dtype).init, jnp.int32(0))
    optimizer = arm.chain(plan.learning_rate, weight_decay=0.1, mask=None)
    state = jax.eval_shape(optimizer.init, params)

    def size(tree: Any) -> int:
        leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]
        return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves)

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Memory(arm.name, size(params) / count, round(size(state) / count, 2))
