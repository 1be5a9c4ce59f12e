"""How much time does a step take with rounding or telemetry, relative to a plain step?

Question    How much longer does a jitted step of optax.adamw on 10 million weights take
            with stochastic rounding, with compensation or with track_decay?
Command     python -m experiments.benchmarks.wrappers
Cost        under a minute on 2 CPU cores
Expected    Stochastic rounding takes at most 1.5 times the plain bfloat16 step.
            Compensation takes about twice as long, because XLA on CPU calculates weight
            and residual in two passes. Telemetry of every 100th step takes at most 1.1
            times as long, with and without donation.

The cases take turns in one process, and the table shows ratios of medians. Times are
not printed, because they depend on the machine.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import decayax as dx


SHAPES = [(3000, 1000)] * 3 + [(1000, 1000)]
ROUNDS = 30
adamw = optax.adamw(1e-3, weight_decay=0.1)


class Case(NamedTuple):
    """An optimizer on weights of a dtype."""

    name: str
    dtype: str
    optimizer: Any
    every: int = 1  # every so many steps one step also measures, and takes longer


CASES = (
    Case("bfloat16", "bfloat16", adamw),
    Case("with_stochastic_rounding", "bfloat16", dx.with_stochastic_rounding(adamw)),
    Case("with_compensation", "bfloat16", dx.with_compensation(adamw)),
    Case(
        "with_stochastic_rounding, moments too",
        "bfloat16",
        dx.with_stochastic_rounding(dx.with_state_dtype(adamw, jnp.bfloat16)),
    ),
    Case("float32", "float32", adamw),
    Case("track_decay(every=100)", "float32", dx.track_decay(adamw), 100),
    Case("track_decay(every=10)", "float32", dx.track_decay(adamw, every=10), 10),
    Case("track_decay(every=1)", "float32", dx.track_decay(adamw, every=1)),
)


def normal(seed: int, dtype: str) -> list[jax.Array]:
    """Normal weights or gradients of all shapes."""
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    pairs = zip(keys, SHAPES, strict=True)
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in pairs]


def stepper(case: Case, donate: bool) -> tuple[Callable[[], float], float]:
    """A function that takes a step and returns its seconds; temporary megabytes."""
    grads = normal(1, case.dtype)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = case.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = normal(0, case.dtype)
    carry = params, case.optimizer.init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1) if donate else ())
    compiled = compiled.lower(*carry, grads).compile()
    memory = compiled.memory_analysis()

    def timed() -> float:
        nonlocal carry
        started = time.perf_counter()
        carry = jax.block_until_ready(compiled(*carry, grads))
        return time.perf_counter() - started

    return timed, float("nan") if memory is None else memory.temp_size_in_bytes / 1e6


def seconds(case: Case, times: list[float]) -> float:
    """The seconds of an average step: steps that measure, and all others."""
    measuring = times[:: case.every]
    if case.every == 1:
        return statistics.median(measuring)
    others = [t for step, t in enumerate(times) if step % case.every != 0]
    share = 1 / case.every
    slow, fast = statistics.median(measuring), statistics.median(others)
    return share * slow + (1 - share) * fast


def main() -> None:
    """Print the table."""
    device = jax.devices()[0].device_kind
    print(f"adamw on {sum(a * b for a, b in SHAPES):,} weights, {device}")
    print(f"{'':40}{'':>10}{'temp. MB':>12}{'donated':>12}{'temp. MB':>12}")
    ratios: dict[str, list[float]] = {case.name: [] for case in CASES}
    for donate in (False, True):
        for dtype in ("bfloat16", "float32"):
            cases = [case for case in CASES if case.dtype == dtype]
            steppers = [stepper(case, donate) for case in cases]
            times: list[list[float]] = [[] for _ in cases]
            for _ in range(ROUNDS):
                for case_times, (timed, _) in zip(times, steppers, strict=True):
                    case_times.append(timed())
            # The first step can include page faults; in tracked cases it also measures.
            means = [seconds(case, x) for case, x in zip(cases, times, strict=True)]
            for case, mean, (_, size) in zip(cases, means, steppers, strict=True):
                ratios[case.name] += [mean / means[0], size]
    for name, (ratio, memory, donated, donated_memory) in ratios.items():
        columns = f"{ratio:10.2f}{memory:12.1f}{donated:12.2f}{donated_memory:12.1f}"
        print(f"{name:40}{columns}")


if __name__ == "__main__":
    main()
