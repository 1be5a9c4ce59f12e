"""What `audit` measures of every leaf, one question after the other."""

from collections import Counter
from typing import Any, NamedTuple

import jax
import numpy as np

from decayax._audit import anchors, by_step, clips
from decayax._audit.dependence import keeps_weights
from decayax._audit.follow import Begin, make_clock
from decayax._audit.measure import Bench, make_bench, measure, measure_once
from decayax._audit.modes import (
    ANCHORED,
    CONSTRAINED,
    GROWTH,
    mode_of,
    NONE,
    NOT_FINITE,
    SCALE_DEPENDENT,
    UNIFORM,
    WITHOUT_DECAY,
)
from decayax._audit.plan import Plan
from decayax._audit.readings import Reading, Readings, Setting, with_values
from decayax._audit.shapes import halved
from decayax._audit.survival import is_narrow, Survival, survival
from decayax._audit.trace import sample_stride


WEIGHT_SCALES = (0.1, 10.0)  # measured in addition to 1
# Where to look for a decay that has not begun in the measured steps.
LATER_STEPS = (1000, 10_000, 100_000)
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
    anchored: bool = False  # whether it is pulled to what the state keeps


class Everything(NamedTuple):
    """What was measured of all leaves."""

    plan: Plan  # with all weights, if a sample shows other rates
    leaves: list[Measured]
    slower: list[Reading] | None  # at half the learning rate
    survival: Survival | None  # in dtypes of 16 bits or fewer, if there are any
    clipped: list[bool]  # whether a clip limits the steps of each leaf
    clipped_to: list[float]  # the fraction of each leaf's decay that it leaves
    # a later step and its rate, for leaves that do not decay yet
    later_rates: list[tuple[int, float] | None]


def measure_all(plan: Plan, request: Request) -> Everything:
    """Measure everything that the findings need."""
    bench = _make_bench(plan, request)
    by_steps = _by_steps(bench, request)
    units = _with_anchors(bench, request, _measured(bench, request, by_steps))
    # What follows is measured once, at the step where most units decay fastest.
    (common, _), *_ = Counter(by_step.fastest_steps(by_steps)).most_common(1)
    begin = Begin(common, by_step.burn_in_steps(bench) if common else 0)
    main, readings = request.main, [unit.main for unit in units]
    clipped = [
        is_clipped and unit.mode not in WITHOUT_DECAY
        for unit, is_clipped in zip(
            units, clips.are_clipped(bench, readings), strict=True
        )
    ]
    fractions = clips.clipped_to(bench, main, begin, readings, clipped)
    each = bench.jvp.program.for_each_leaf
    return Everything(
        bench.plan,
        each(units),
        _slower(bench, request, begin),
        _survival(bench, main, begin, each([r.known_rate for r in readings])),
        each(clipped),
        each(fractions),
        _later_rates(bench, request, units),
    )


def _make_bench(plan: Plan, request: Request) -> Bench:
    """Set up the program; with all weights, if a sample shows other rates."""
    runs = 4 * (len(request.settings()) + len(request.later_steps))
    why = "" if plan.sampled else ", because all weights are measured"
    bench = make_bench(plan, plan.program(), make_clock(runs, why))
    if all(bench.exact) or not plan.sampled or plan.forced:
        return bench
    if not _depends_on_sample(bench, request):
        return bench
    plan = plan.with_shapes(plan.whole)
    clock = make_clock(runs, ", because a sample shows other rates")
    return make_bench(plan, plan.program(), clock)


def _slower(bench: Bench, request: Request, begin: Begin) -> list[Reading] | None:
    """The reading of each leaf at half the learning rate, for a factory."""
    if request.slower is None:
        return None
    program = bench.plan.program(optimizer=request.slower)
    slower = make_bench(bench.plan, program, bench.jvp.clock)
    readings = measure_once(slower, request.main, bench.plan.steps, begin)
    return program.for_each_leaf(readings)


def _later_rates(
    bench: Bench, request: Request, units: list[Measured]
) -> list[tuple[int, float] | None]:
    """The first of a few later steps at which a leaf decays, if it does not now."""
    program = bench.jvp.program
    found: list[tuple[int, float] | None] = [None] * len(units)
    still = [unit.mode == NONE and _is_still(unit.main) for unit in units]
    if request.later_steps or not any(still):
        return program.for_each_leaf(found)
    may = bench.reads().only_counters()
    waits = [
        is_still and may[index]
        for is_still, (_, index) in zip(still, program.units, strict=True)
    ]
    if not any(waits):
        return program.for_each_leaf(found)
    for step in LATER_STEPS:
        readings = by_step.readings_at(bench, request.main, step, 0)
        for i, reading in enumerate(readings):
            if waits[i] and found[i] is None and reading.known_rate:
                found[i] = step, reading.known_rate
    return program.for_each_leaf(found)


def _is_still(reading: Reading) -> bool:
    """Whether the derivative is exactly 0 in every step."""
    trace = reading.jvp_trace
    return trace is not None and not np.any(trace.relative_step)


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
    burn_in = by_step.burn_in_steps(bench)
    fastest = by_step.fastest_steps(by_steps)
    readings = {
        step: _readings(bench, request, Begin(step, burn_in))
        for step in sorted(set(fastest))
    }
    gradient_free = not bench.reads().any_gradient
    units = []
    for unit, (step, live) in enumerate(zip(fastest, _live(bench), strict=True)):
        own = readings[step][unit]
        mode = mode_of(
            request.main,
            own,
            elementwise=bench.plan.elementwise,
            gradient_free=gradient_free,
            live=live,
        )
        units.append(Measured(mode, own, own[request.main], by_steps[unit], live))
    return units


def _readings(bench: Bench, request: Request, begin: Begin) -> list[Readings]:
    """The readings of all units; of the weights themselves if a pull is not linear."""
    settings = request.settings()
    readings = measure(bench, settings, begin)
    if not any(own[request.main].is_nonlinear for own in readings):
        return readings
    mirrored = [s._replace(weight_scale=-s.weight_scale) for s in settings]
    opposite = measure(bench, mirrored, begin)
    with_pulls = map(with_values, readings, opposite)
    return [
        pulls if pulls[request.main].is_nonlinear else own
        for own, pulls in zip(readings, with_pulls, strict=True)
    ]


def _by_steps(bench: Bench, request: Request) -> list[tuple[tuple[int, float], ...]]:
    """For each unit, pairs of a later step and the rate there."""
    burn_in = by_step.burn_in_steps(bench) if request.later_steps else 0
    at_steps = {
        step: by_step.readings_at(bench, request.main, step, burn_in)
        for step in request.later_steps
    }
    return [
        tuple((step, readings[unit].known_rate) for step, readings in at_steps.items())
        for unit in range(len(bench.jvp.program.units))
    ]


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
    bench: Bench, request: Request, units: list[Measured]
) -> list[Measured]:
    """Find pulls to weights that the state keeps."""
    if not keeps_weights(bench.jvp.program):
        return units
    held = anchors.readings_with_state_held(bench, request.settings())
    # Large gradients show pulls whose strength follows them.
    largest = request.main._replace(gradient_scale=max(request.gradient_scales))
    forgets = anchors.forget_gradients(bench, (request.main, largest), held)
    gradient_free = not bench.reads().any_gradient
    found = []
    for unit, own, forget in zip(units, held, forgets, strict=True):
        pulled = forget and anchors.is_pulled(unit.main, own[request.main])
        if not pulled or unit.mode not in (NONE, UNIFORM, GROWTH, SCALE_DEPENDENT):
            found.append(unit)
            continue
        mode = mode_of(
            request.main,
            own,
            elementwise=bench.plan.elementwise,
            gradient_free=gradient_free,
            live=unit.live,
            state_held=True,
        )
        mode = ANCHORED if mode == UNIFORM else mode
        anchored = unit._replace(
            mode=mode, readings=own, main=own[request.main], anchored=True
        )
        unknown = mode in (NONE, CONSTRAINED, GROWTH, NOT_FINITE)
        found.append(unit if unknown else anchored)
    return found


def _survival(
    bench: Bench, main: Setting, begin: Begin, rates: list[float]
) -> Survival | None:
    """What remains in dtypes of 16 bits or fewer; None if there are none."""
    if not any(is_narrow(shape.dtype) for shape in bench.plan.shapes.values()):
        return None
    program = bench.plan.program(own_dtypes=True)
    own = make_bench(bench.plan, program, bench.jvp.clock)
    return survival(bench, own, main, begin, rates)
