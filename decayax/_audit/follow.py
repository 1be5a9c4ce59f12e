"""Runs of a probe over many steps, in chunks, with an estimate of the time to go."""

import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from decayax._audit.draws import (
    count_numbers,
    normal,
    steps_per_call,
)
from decayax._audit.plan import Program
from decayax._audit.probe import Probe
from decayax._audit.readings import Setting
from decayax._audit.trace import sample_size, Trace


# A user who waits this long for one call wants to know why.
WARN_AFTER_SECONDS = 10.0
Clock: TypeAlias = Callable[[int], Iterator[int]]


class Begin(NamedTuple):
    """How a run begins."""

    at_step: int = 0
    burn_in: int = 0  # steps before it that are run, and not only counted
    # Whether the state at this step counts as independent of the weights.
    hold_state: bool = False
    other_steps: int = 0  # steps at the start with gradients of another seed


AT_START = Begin()


class Runner(NamedTuple):
    """A program, a probe of it, and what all their runs share."""

    program: Program
    probe: Probe
    fast_forward: Callable[[], Any]  # () -> function (state, steps) -> later state
    clock: Clock


class Run(NamedTuple):
    """The result of a run under g and −g."""

    start: list[np.ndarray]  # of each unit: its sampled initial weights
    traces: list[Trace]  # of each unit; the first axis of all arrays is the sign


def follow(
    runner: Runner, params: Any, setting: Setting, steps: int, begin: Begin = AT_START
) -> Run:
    """Run the probe from ``params`` over ``steps`` steps, under g and −g."""
    both = [
        _follow(runner, params, setting._replace(gradient_scale=scale), steps, begin)
        for scale in (setting.gradient_scale, -setting.gradient_scale)
    ]
    traces = jax.tree.map(lambda *signs: np.stack(signs), *[run.traces for run in both])
    return Run(both[0].start, traces)


def _follow(
    runner: Runner, params: Any, setting: Setting, steps: int, begin: Begin
) -> Run:
    probe = runner.probe
    carry, start = probe.start(params)
    if begin.at_step:
        carry = _at_step(runner, carry, params, setting, begin)
    parts = []
    if begin.other_steps:
        other = setting._replace(seed=setting.seed + 1000)
        carry, parts = _advance(runner, carry, params, other, 0, begin.other_steps)
    done = begin.at_step + begin.other_steps
    _, more = _advance(runner, carry, params, setting, done, steps - begin.other_steps)
    # Time is the first axis after that of the lanes.
    time_axis = 1 if runner.program.lanes > 1 else 0
    whole = jax.tree.map(
        lambda *x: np.concatenate(x, time_axis).astype(float), *parts, *more
    )
    return _by_unit(runner.program, np.asarray(start, float), whole, steps)


def _at_step(
    runner: Runner, carry: Any, params: Any, setting: Setting, begin: Begin
) -> Any:
    """The carry at a later step, with the initial weights.

    The weights begin again after every few steps. So they keep their size, and the
    state follows weights that are not lost yet.
    """
    probe, chunk = runner.probe, _chunk_size(runner)
    burn_in = min(begin.at_step, begin.burn_in) // chunk * chunk
    first = begin.at_step - burn_in
    if first:
        skip = runner.fast_forward()
        states = [skip(state, first) for state in probe.states(carry)]
        carry = probe.with_states(carry, states)
    for step in range(first, begin.at_step, chunk):
        carry, _ = _run_chunk(runner, carry, params, setting, step)
        carry = probe.restart(carry, params)
    return probe.hold(carry, params) if begin.hold_state else carry


def _advance(
    runner: Runner, carry: Any, params: Any, setting: Setting, first: int, steps: int
) -> tuple[Any, list[Trace]]:
    """The carry after some steps from step ``first`` on, and the parts' traces."""
    chunk, parts = _chunk_size(runner), []
    for i in runner.clock(-(-steps // chunk)):
        start = first + i * chunk
        carry, part = _run_chunk(runner, carry, params, setting, start)
        parts.append(jax.device_get(part))
    return carry, parts


def _chunk_size(runner: Runner) -> int:
    return steps_per_call(count_numbers(runner.program.shapes))


def _run_chunk(
    runner: Runner, carry: Any, params: Any, setting: Setting, first: int
) -> tuple[Any, Trace]:
    """The carry after one compiled call, and its trace."""
    size = count_numbers(runner.program.shapes)
    times = np.arange(first, first + _chunk_size(runner), dtype=np.uint32)
    numbers = normal(jax.random.key(setting.seed), times, size)
    scale = np.float32(setting.gradient_scale)
    return runner.probe.advance(carry, params, numbers, scale, times)


def _by_unit(program: Program, start: np.ndarray, whole: Trace, steps: int) -> Run:
    """Cut the arrays of all leaves into those of each unit.

    The last chunk may have run too far: cut the result to the number of steps.
    """
    counts = [sample_size(leaf.shape) for leaf in program.inexact_shapes()]
    bounds = list(itertools.pairwise(itertools.accumulate(counts, initial=0)))

    def of_leaf(array: np.ndarray, name: str, lane: int, index: int) -> np.ndarray:
        array = array[lane] if program.lanes > 1 else array
        if name in ("per_weight", "weights"):
            return array[:steps, slice(*bounds[index])]
        return array[:steps, index]

    def trace_of(lane: int, index: int) -> Trace:
        fields = whole._asdict().items()
        known = {n: of_leaf(x, n, lane, index) for n, x in fields if x is not None}
        return whole._replace(**known)

    starts = start if program.lanes > 1 else start[None]
    return Run(
        [starts[lane, slice(*bounds[index])] for lane, index in program.units],
        [trace_of(lane, index) for lane, index in program.units],
    )


def make_clock(runs: int, why: str) -> Clock:
    """A function that counts the chunks of each of the runs.

    It warns once if the time to go is long.
    """
    to_run = runs
    times: list[float] = []  # of all chunks except the first of a run, which compiles

    def chunks(count: int) -> Iterator[int]:
        nonlocal to_run
        for chunk in range(count):
            start = time.monotonic()
            yield chunk
            if chunk:
                times.append(time.monotonic() - start)
            # One slow chunk may be chance, unless it is very slow.
            known = len(times) >= 3 or (times and times[0] > WARN_AFTER_SECONDS)
            to_go = statistics.median(times) * (count * to_run) if known else 0.0
            if to_go > WARN_AFTER_SECONDS and not warned:
                warned.append(to_go)
                warnings.warn(
                    f"audit: about {to_go:.0f} s to go{why}. Pass sample=True to "
                    "measure a part of each leaf, or pass fewer steps.",
                    stacklevel=_levels_to_the_user(),
                )
        to_run = max(to_run - 1, 1)

    warned: list[float] = []
    return chunks


def _levels_to_the_user() -> int:
    """How many calls lie between the caller of this function and the user's code."""
    level, frame = 0, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("decayax."):
        level, frame = level + 1, frame.f_back
    return level + 1
