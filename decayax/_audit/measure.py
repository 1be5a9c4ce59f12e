"""The readings of all leaves under all settings."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from decayax._audit.dependence import decay_reads, DecayReads, exact_leaves
from decayax._audit.estimates import Subject
from decayax._audit.follow import AT_START, Begin, Clock, follow, Runner
from decayax._audit.plan import initial_weights, Plan, Program
from decayax._audit.probe import difference_probe, jvp_probe
from decayax._audit.readings import Reading, reading_of, Readings, Setting
from decayax._jaxpr.counters import advance, counters, fast_forward
from decayax._jaxpr.dataflow import Kind
from decayax._jaxpr.dependence import update_kind
from decayax._jaxpr.trace import trace


class Bench(NamedTuple):
    """What is needed to measure a program in both ways; compiled once."""

    plan: Plan
    jvp: Runner
    difference: Runner
    exact: list[bool]  # of each unit: the derivative connects no two weights
    reads: Callable[[], DecayReads]  # what the derivative reads; found once


def make_bench(plan: Plan, program: Program, clock: Clock) -> Bench:
    """Set up a program to be measured."""

    @functools.cache  # only later steps need it
    def skip() -> Any:
        run = _fast_forward(program)
        return jax.jit(jax.vmap(run, in_axes=(0, None)) if program.lanes > 1 else run)

    def runner(probe: Any) -> Runner:
        return Runner(program, probe(program.probed, program.lanes), skip, clock)

    def is_aligned() -> bool:
        return update_kind(plan.traced, of_gradients=False) <= Kind.ALIGNED

    exact = exact_leaves(program, otherwise=is_aligned)
    return Bench(
        plan,
        runner(jvp_probe),
        runner(difference_probe),
        [exact[index] for _, index in program.units],
        functools.cache(lambda: decay_reads(program)),
    )


def _fast_forward(program: Program) -> Callable[..., Any]:
    """The function (state, steps) -> state with its counters advanced."""
    probed = program.probed
    traced = trace(probed.init, probed.update, program.shapes)
    forward = fast_forward(traced)
    which = _other_counters(program, forward.autonomous)

    def run(state: Any, steps: Any) -> Any:
        leaves, treedef = jax.tree.flatten(state)
        return treedef.unflatten(advance(forward.run(leaves, steps), which, steps))

    return run


def _other_counters(program: Program, autonomous: Sequence[bool]) -> list[bool]:
    """The scalars of the state that count steps, but not in all conditions."""
    if all(autonomous):
        return [False] * len(autonomous)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), program.shapes)
    state, update = program.probed.init(ones), jax.jit(program.probed.update)
    states = [jax.tree.leaves(state)]
    for step in range(3):
        _, state = update(ones, state, ones, np.uint32(step))
        states.append(jax.tree.leaves(state))
    pairs = zip(counters(states), autonomous, strict=True)
    return [counts and not known for counts, known in pairs]


def measure(
    bench: Bench, settings: Sequence[Setting], begin: Begin = AT_START
) -> list[Readings]:
    """For each unit its readings under every setting."""
    readings: list[Readings] = [{} for _ in bench.jvp.program.units]
    for setting in settings:
        for own, reading in zip(
            readings, measure_once(bench, setting, bench.plan.steps, begin), strict=True
        ):
            own[setting] = reading
    return readings


def measure_once(
    bench: Bench, setting: Setting, steps: int, begin: Begin = AT_START
) -> list[Reading]:
    """The reading of each unit."""
    params = initial_weights(bench.jvp.program, setting)
    of_difference = follow(bench.difference, params, setting, steps, begin)
    try:
        of_jvp = follow(bench.jvp, params, setting, steps, begin).traces
    except Exception:  # the optimizer has no derivative
        of_jvp = [None] * len(of_difference.traces)
    units = zip(
        of_jvp,
        of_difference.traces,
        of_difference.start,
        weight_counts(bench),
        bench.exact,
        _are_real(bench),
        strict=True,
    )
    return [
        reading_of(jvp, difference, Subject(count, exact, real, start))
        for jvp, difference, start, count, exact, real in units
    ]


def _are_real(bench: Bench) -> list[bool]:
    shapes = bench.jvp.program.inexact_shapes()
    real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in shapes]
    return [real[index] for _, index in bench.jvp.program.units]


def weight_counts(bench: Bench) -> list[int]:
    """How many weights of each unit are measured."""
    sizes = [leaf.size for leaf in bench.jvp.program.inexact_shapes()]
    return [sizes[index] for _, index in bench.jvp.program.units]
