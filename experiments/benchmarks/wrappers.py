"""What a step costs with rounding or telemetry, as ratios to the plain step.

Question    How much longer does a jitted step of optax.adamw on 10 million weights take
            with stochastic rounding, with compensation or with track_decay?
Command     python -m experiments.benchmarks.wrappers
Cost        under a minute on 2 CPU cores
Expected    Stochastic rounding at most 1.5 times the plain bfloat16 step, compensation
            about twice, as XLA on CPU calculates weight and residual in two passes;
            telemetry of every 100th step 1.05 times where nothing is donated.

Each ratio is of medians of steps run in turn in one process. Times are not printed, as
they depend on the machine.
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
    every: int = 1  # step of which one is dear


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
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    pairs = zip(keys, SHAPES, strict=True)
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in pairs]


def stepper(case: Case, donate: bool) -> tuple[Callable[[], float], float]:
    """A function that takes a step and returns its seconds; megabytes of scratch."""
    grads = normal(1, case.dtype)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = case.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = normal(0, case.dtype)
    carry = params, case.optimizer.init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1) if donate else ())
    compiled = compiled.lower(*carry, grads).compile()
    scratch = compiled.memory_analysis()

    def timed() -> float:
        nonlocal carry
        begun = time.perf_counter()
        carry = jax.block_until_ready(compiled(*carry, grads))
        return time.perf_counter() - begun

    return timed, scratch.temp_size_in_bytes / 1e6 if scratch else float("nan")


def seconds(case: Case, times: list[float]) -> float:
    """A step on average: the median of dear and of cheap steps, in their shares."""
    dear = times[:: case.every]
    cheap = [t for i, t in enumerate(times) if i % case.every] or dear
    share = 1 / case.every
    return share * statistics.median(dear) + (1 - share) * statistics.median(cheap)


def main() -> None:
    device = jax.devices()[0].device_kind
    print(f"adamw on {sum(a * b for a, b in SHAPES):,} weights, {device}")
    print(f"{'':40}{'':>10}{'scratch MB':>12}{'donated':>12}{'scratch MB':>12}")
    ratios: dict[str, list[float]] = {case.name: [] for case in CASES}
    for donate in (False, True):
        for dtype in ("bfloat16", "float32"):
            cases = [case for case in CASES if case.dtype == dtype]
            steppers = [stepper(case, donate) for case in cases]
            times: list[list[float]] = [[] for _ in cases]
            for _ in range(ROUNDS):
                for case_times, (timed, _) in zip(times, steppers, strict=True):
                    case_times.append(timed())
            # The first step of each may still page memory in; it is also a dear one.
            means = [seconds(case, x) for case, x in zip(cases, times, strict=True)]
            for case, mean, (_, size) in zip(cases, means, steppers, strict=True):
                ratios[case.name] += [mean / means[0], size]
    for name, (plain, scratch, donated, its_scratch) in ratios.items():
        print(
            f"{name:40}{plain:10.2f}{scratch:12.1f}{donated:12.2f}{its_scratch:12.1f}"
        )


if __name__ == "__main__":
    main()
