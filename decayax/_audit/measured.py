"""What `audit` measures of every leaf, one question after the other."""

import math
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from decayax._audit import anchors, by_step, causes
from decayax._audit.dependence import keeps_weights, may_decay_later
from decayax._audit.follow import Begin, Clock, make_clock
from decayax._audit.measure import (
    Bench,
    make_bench,
    measure,
    measure_once,
    Survival,
    survival,
    weight_counts,
)
from decayax._audit.modes import (
    ANCHORED,
    CONSTRAINED,
    GATED,
    mode_of,
    NONE,
    NOT_FINITE,
    UNEVEN,
    UNIFORM,
)
from decayax._audit.plan import Plan
from decayax._audit.readings import Reading, Readings, same_kind, Setting
from decayax._audit.shapes import halved
from decayax._audit.trace import sample_stride


WEIGHT_SCALES = (0.1, 10.0)  # measured in addition to 1
# Without gradients, and with small weights, no step reaches a clip.
REST = {"gradient_scale": 0.0, "weight_scale": 0.01}
# Rates of a sample and of half of it that differ by more depend on the sample.
SAMPLE_RTOL = 0.1


class Request(NamedTuple):
    """What the user wants to know."""

    gradient_scales: tuple[float, ...]
    seeds: int
    later_steps: tuple[int, ...]
    horizon: int | None
    slower: Any  # the optimizer at half the learning rate, or None

    @property
    def main(self) -> Setting:
        """The setting whose rates are reported."""
        middle = sorted(self.gradient_scales)[len(self.gradient_scales) // 2]
        return Setting(seed=0, gradient_scale=middle, weight_scale=1.0)

    def settings(self) -> list[Setting]:
        """All settings that show the mode."""
        return [
            *(self.main._replace(gradient_scale=x) for x in self.gradient_scales),
            *(self.main._replace(seed=seed) for seed in range(1, self.seeds)),
            *(self.main._replace(weight_scale=scale) for scale in WEIGHT_SCALES),
        ]


class Measured(NamedTuple):
    """What was measured of one unit."""

    mode: str
    readings: Readings
    main: Reading  # the one whose rate is reported
    by_step: tuple[tuple[int, float], ...] = ()
    live: np.ndarray | None = None  # which sampled weights get gradients


class Everything(NamedTuple):
    """What was measured of all leaves."""

    plan: Plan  # with all weights, if a sample shows other rates
    leaves: list[Measured]
    slower: list[Reading] | None  # at half the learning rate
    survival: Survival | None  # in dtypes of 16 bits or fewer, if there are any
    clipped_to: list[float]  # the fraction of each leaf's decay that a clip leaves
    may_decay_later: list[bool]  # whether the decay of each leaf depends on counters


def measure_all(plan: Plan, request: Request) -> Everything:
    """Measure everything that the findings need."""
    runs = 4 * (len(request.settings()) + len(request.later_steps))
    clock = make_clock(
        runs, "" if plan.sampled else ", because all weights are measured"
    )
    bench = make_bench(plan, plan.program(), clock)
    if plan.sampled and not plan.kinds.exact and _depends_on_sample(bench, request):
        plan = plan.with_shapes(plan.whole)
        clock = make_clock(runs, ", because a sample shows other rates")
        bench = make_bench(plan, plan.program(), clock)
    by_steps = _by_steps(bench, request)
    units = _with_anchors(bench, request, _measured(bench, request, by_steps))
    each = bench.jvp.program.for_each_leaf
    # What follows is measured once, at the step where most units decay fastest.
    (common, _), *_ = Counter(by_step.fastest_steps(by_steps)).most_common(1)
    begin = Begin(common, by_step.burn_in_steps(bench) if common else 0)
    slower = None
    if request.slower is not None:
        program = plan.program(optimizer=request.slower)
        readings = measure_once(
            make_bench(plan, program, clock), request.main, plan.steps, begin
        )
        slower = program.for_each_leaf(readings)
    return Everything(
        plan,
        each(units),
        slower,
        _survival(bench, request.main, begin, clock),
        each(_clipped_to(bench, request.main, begin, units)),
        may_decay_later(bench.jvp.program),
    )


def _depends_on_sample(bench: Bench, request: Request) -> bool:
    """Whether half of the sample shows other rates."""
    plan = bench.plan.with_shapes(jax.tree.map(halved, bench.plan.measured))
    smaller = make_bench(plan, plan.program(), bench.jvp.clock)
    pairs = zip(
        *(
            each.jvp.program.for_each_leaf(measure_once(each, request.main, plan.steps))
            for each in (bench, smaller)
        ),
        strict=True,
    )
    return any(
        abs(a.best.rate - b.best.rate)
        > SAMPLE_RTOL * abs(a.best.rate) + a.best.threshold + b.best.threshold
        for a, b in pairs
    )


def _measured(
    bench: Bench, request: Request, by_steps: list[tuple[tuple[int, float], ...]]
) -> list[Measured]:
    """Measure all units, each at the step where it decays fastest."""
    main, burn_in = request.main, by_step.burn_in_steps(bench)
    fastest = by_step.fastest_steps(by_steps)
    readings = {
        step: measure(bench, request.settings(), Begin(step, burn_in))
        for step in sorted(set(fastest))
    }
    units = []
    for unit, (step, live) in enumerate(zip(fastest, _live(bench), strict=True)):
        own = same_kind(readings[step][unit], main)
        mode = mode_of(main, own, bench.plan.kinds)
        if mode in (UNEVEN, UNIFORM) and live is not None:
            gated = causes.by_zero_gradient(own[main], live)
            mode = GATED if gated else mode
        units.append(Measured(mode, own, own[main], by_steps[unit], live))
    return units


def _by_steps(bench: Bench, request: Request) -> list[tuple[tuple[int, float], ...]]:
    """For each unit, pairs of a later step and the rate there."""
    burn_in = by_step.burn_in_steps(bench) if request.later_steps else 0
    at_steps = {
        step: by_step.readings_at(bench, request.main, step, burn_in)
        for step in request.later_steps
    }
    return [
        tuple((step, _rate(readings[unit])) for step, readings in at_steps.items())
        for unit in range(len(bench.jvp.program.units))
    ]


def _rate(reading: Reading) -> float:
    reading = reading._replace(use_value=reading.has_constant_pull)
    return reading.best.rate if reading.best.significant else 0.0


def _live(bench: Bench) -> list[np.ndarray | None]:
    """Which sampled weights of each unit get gradients, if not all or none do."""
    program = bench.jvp.program
    masks = []
    for _, index in program.units:
        mask = program.probed.gradient_masks[index]
        if np.ndim(mask):
            mask = np.ravel(mask)[:: sample_stride(np.shape(mask))] > 0.0
            masks.append(mask)
        else:
            masks.append(None)
    return masks


def _with_anchors(
    bench: Bench, request: Request, leaves: list[Measured]
) -> list[Measured]:
    """Find pulls to weights that the state keeps."""
    if not keeps_weights(bench.jvp.program):
        return leaves
    held = anchors.readings_with_state_held(bench, request.main)
    rates = [_rate(reading) for reading in held]
    forgets = anchors.forgets_gradients(bench, request.main, rates)
    return [
        _with_anchor(leaf, reading, forget)
        for leaf, reading, forget in zip(leaves, held, forgets, strict=True)
    ]


def _with_anchor(leaf: Measured, held: Reading, forgets: bool) -> Measured:
    """The leaf, judged again with the reading where the state is held fixed."""
    rate, own = _rate(held), leaf.main.best.rate
    pulled = forgets and 0.0 < rate < 0.5 and abs(own) < 0.9 * rate
    if leaf.mode in (NONE, UNIFORM) and pulled:
        return leaf._replace(mode=ANCHORED, main=held)
    return leaf


def _survival(
    bench: Bench, main: Setting, begin: Begin, clock: Clock
) -> Survival | None:
    """What remains in dtypes of 16 bits or fewer; None if there are none."""
    if not any(_is_narrow(shape.dtype) for shape in bench.plan.shapes.values()):
        return None
    own = make_bench(bench.plan, bench.plan.program(own_dtypes=True), clock)
    return survival(bench, own, main, begin)


def _is_narrow(dtype: Any) -> bool:
    """Whether rounding to the dtype can remove a decay."""
    return jnp.dtype(dtype).itemsize < 4


def _clipped_to(
    bench: Bench, main: Setting, begin: Begin, leaves: list[Measured]
) -> list[float]:
    """The fraction of each leaf's decay that a clip of the finished step leaves."""
    program = bench.jvp.program
    counts, readings = weight_counts(bench), [unit.main for unit in leaves]
    # The norm of all leaves of each unit.
    sizes = [
        program.sizes[lane, index] * math.sqrt(count * program.unit_of.count(unit))
        for unit, ((lane, index), count) in enumerate(
            zip(program.units, counts, strict=True)
        )
    ]
    decays = [
        saturates
        and leaf.main.depends_on_gradient
        and leaf.mode not in (NONE, CONSTRAINED, NOT_FINITE, ANCHORED)
        for leaf, saturates in zip(
            leaves, causes.saturate(readings, sizes), strict=True
        )
    ]
    if not any(decays):
        return [1.0] * len(leaves)
    rest = measure_once(bench, main._replace(**REST), bench.plan.steps, begin)
    return [
        leaf.main.best.rate / free.best.rate
        if decaying and free.best.significant and free.best.rate > 0.0
        else 1.0
        for leaf, free, decaying in zip(leaves, rest, decays, strict=True)
    ]
