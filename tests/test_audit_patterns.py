"""Patterns in the rates of steps and weights, from traces that are written by hand."""

import numpy as np
import pytest

from decayax._audit import by_step, causes, modes, patterns
from decayax._audit.clips import _saturate
from decayax._audit.estimates import rates_of, steps_of, steps_with_rate, Subject
from decayax._audit.readings import reading_of, Setting, with_values
from decayax._audit.trace import Trace


MAIN = Setting(0, 1.0, 1.0)
RANDOM = np.random.default_rng(0)
STEPS, WEIGHTS = 200, 64


@pytest.fixture(autouse=True)
def quiet():
    """As in `audit`: 0/0 shows as NaN."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(autouse=True)
def the_same_random_numbers():
    """Whichever tests ran before."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def trace_of(rates, noise=1e-3):
    """The trace of weights 1 with these rates (signs, steps, n), and random steps."""
    rates = np.broadcast_to(rates, (2, STEPS, WEIGHTS))
    kept = np.cumprod(1.0 - rates, axis=1)
    drift = np.cumsum(RANDOM.normal(size=kept.shape) * noise, axis=1)
    drift -= drift.mean(0)
    weights = kept + drift
    steps = np.diff(weights, axis=1, prepend=1.0)
    norm = np.sqrt(WEIGHTS)
    return Trace(
        change=kept.mean(-1) - 1.0,
        change_norm=np.linalg.norm(kept - 1.0, axis=-1) / norm,
        relative_step=np.abs(rates).mean(-1),
        per_weight=kept - 1.0,
        value=weights.mean(-1),
        size=np.linalg.norm(weights, axis=-1) / norm,
        step_size=np.linalg.norm(steps, axis=-1) / norm,
        weights=weights,
    )


def reading(rates, noise=1e-3, exact=True):
    trace = trace_of(rates, noise)
    return reading_of(trace, trace, Subject(WEIGHTS, exact, True, np.ones(WEIGHTS)))


def mode_of(readings, elementwise=True):
    return modes.mode_of(
        MAIN, readings, elementwise=elementwise, gradient_free=elementwise
    )


def by_steps(rates):
    """The rates of single steps, shape (signs, steps, n)."""
    return np.asarray(rates)[None, :, None]


T = np.arange(STEPS)


# --- rates --------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 1e-8, 1e-3, 0.3, 1.0, 1.5, -1e-3])
def test_the_rate_of_a_trace(rate):
    change = trace_of(rate).change
    assert rates_of(change) == pytest.approx(rate, rel=1e-6, abs=1e-15)


def test_the_rate_is_read_where_a_fifth_is_left():
    """Later, retention − 1 has lost its digits."""
    change = np.cumprod(np.full((2, STEPS), 0.9), axis=1) - 1.0
    change[:, 20:] = -1.0  # 0.9^16 < 0.2
    assert rates_of(change) == pytest.approx(0.1)
    trace = trace_of(0.1)
    assert steps_with_rate(trace) == 15
    assert steps_with_rate(trace_of(1e-3)) == STEPS


def test_the_rate_of_every_step():
    rates = RANDOM.uniform(0.0, 1e-2, (2, STEPS, WEIGHTS))
    np.testing.assert_allclose(steps_of(trace_of(rates).per_weight), rates, rtol=1e-6)
    strong = steps_of(trace_of(0.5).per_weight)
    assert np.isfinite(strong[:, :3]).all()
    assert np.isnan(strong[:, 5:]).all()


def test_steps_that_few_weights_have_in_common():
    """±s of all weights loses s²/2: for few weights, this is not a decay."""
    signs = np.array([1.0, -1.0])[:, None, None] * np.where(T % 2, 1.0, -1.0)[:, None]
    trace = trace_of(1e-2 * signs, noise=0.0)
    for count, significant in ((2, False), (WEIGHTS, True)):
        subject = Subject(count, False, True, np.ones(WEIGHTS))
        found = reading_of(trace, trace, subject).jvp
        assert found.rate == pytest.approx(5e-5, rel=0.01)
        assert found.significant == significant


def test_a_weight_that_moves_far_has_moved():
    assert reading(0.0).drift[-1] < 0.05
    assert reading(0.0, noise=0.1).drift[-1] > 0.5


# --- gates --------------------------------------------------------------------------


def coins(part):
    return RANDOM.random((2, STEPS, WEIGHTS)) < part


HALF = np.arange(WEIGHTS) % 2 == 0
GATES = {
    "a coin for each weight": (1e-3 * coins(0.5), True),
    "few weights in each step": (1e-3 * coins(0.1), True),
    "most weights in each step": (1e-3 * coins(0.9), True),
    "hardly any weight is closed": (1e-3 * coins(0.98), False),
    "hardly any weight is open": (1e-3 * coins(0.02), False),
    "the same half in each step": (1e-3 * HALF, False),
    "another half for each sign": (
        1e-3 * np.stack([HALF, ~HALF])[:, None],
        True,
    ),
    "all weights in every second step": (by_steps(1e-3 * (T % 2)), False),
    "half of the rate": (1e-3 * (1 + coins(0.5)), False),
    "unlike rates": (1e-3 * np.linspace(0.01, 1, WEIGHTS), False),
    "few weights change": (
        1e-3 * np.where(np.arange(WEIGHTS) < 3, coins(0.5), 1.0),
        False,
    ),
    "few weights decay, in some steps": (
        1e-3 * coins(0.5) * (np.arange(WEIGHTS) < 3),
        False,
    ),
    "no decay": (0.0, False),
    "all values between": (1e-3 * RANDOM.random((2, STEPS, WEIGHTS)) ** 3, False),
}


@pytest.mark.parametrize("name", GATES)
def test_gates(name):
    rates, gated = GATES[name]
    assert patterns.is_gated(reading(rates)) == gated


def test_if_weights_mix_their_gates_show_unless_rates_are_negative():
    sign = np.where(np.arange(2) == 0, 1e-3, 0.0)[:, None, None]
    assert patterns.is_gated(reading(sign, exact=False))
    assert patterns.is_gated(reading(1e-3 * coins(0.5), exact=False))
    mixed = np.where(coins(0.5), 1e-3, -4e-4)
    mixed[..., 0] = 1e-2  # a small weight, next to which these are not negative
    assert patterns.is_gated(reading(mixed, exact=True))
    assert not patterns.is_gated(reading(mixed, exact=False))


# --- projections --------------------------------------------------------------------


def jumped(kept, weights):
    """A reading whose first step leaves ``kept`` of the derivative of each weight."""
    trace = trace_of(0.0)
    weights = np.broadcast_to(weights, trace.weights.shape)
    trace = trace._replace(
        per_weight=np.broadcast_to(kept, trace.weights.shape) - 1.0,
        change=np.broadcast_to(np.mean(kept), trace.change.shape) - 1.0,
        weights=weights,
        value=weights.mean(-1),
    )
    return reading_of(trace, trace, Subject(WEIGHTS, True, True, np.ones(WEIGHTS)))


SPREAD = np.linspace(0.5, 1.5, WEIGHTS)
FEW = np.arange(WEIGHTS) < 10
CONSTRAINED = {
    "a sphere keeps the direction": (np.full(WEIGHTS, 0.0), SPREAD, True),
    "a shrink keeps as much": (np.full(WEIGHTS, 0.5), 0.5 * SPREAD, False),
    "a box": (1.0 - FEW, np.where(FEW, 0.1, SPREAD - FEW), True),
    "weights that forget, at no bound": (1.0 - FEW, SPREAD - FEW, False),
    "all weights become 0": (np.zeros(WEIGHTS), np.zeros(WEIGHTS), False),
    "nothing": (np.ones(WEIGHTS), SPREAD, False),
}


@pytest.mark.parametrize("name", CONSTRAINED)
def test_projections(name):
    kept, weights, constrained = CONSTRAINED[name]
    assert patterns.is_constrained(jumped(kept, weights)) == constrained


def test_a_projection_in_a_later_step():
    """Half of the derivative is lost in step 100, and nothing of the value."""
    late = reading(by_steps(np.where(T == 100, 0.5, 0.0)))
    kept = reading(0.0).difference_trace
    trace = late.difference_trace._replace(value=kept.value, step_size=kept.step_size)
    assert patterns.is_constrained(late._replace(difference_trace=trace))
    assert not patterns.is_constrained(late)


# --- turning ------------------------------------------------------------------------


def turned(rate, step, size=1.0, first=None):
    """Steps of this relative size across the weights; a rate that begins at `first`."""
    rates = np.full(STEPS, rate)
    rates[0] = rate if first is None else first
    own = reading(by_steps(rates), exact=False)
    trace = own.difference_trace
    trace = trace._replace(step_size=np.full(trace.step_size.shape, step / size))
    return own._replace(difference_trace=trace)


def test_the_turn_of_steps_with_momentum():
    """200 equal steps go 200 times as far as one; random ones √200 times."""
    random = reading(0.0, noise=1e-3)
    # The steps under g and −g have the mean 0, which halves their variance of 1e-6.
    assert random.turn == pytest.approx(5e-7, rel=0.3)
    trace = random.difference_trace
    far = np.broadcast_to(np.sqrt(1.0 + (1e-3 * (T + 1)) ** 2), trace.size.shape)
    equal = trace._replace(size=far, value=np.ones(far.shape))
    assert random._replace(difference_trace=equal).turn == pytest.approx(2e-4, rel=0.1)


SECOND_ORDER = {
    "large weights turn less": ((5e-5, 1e-2), (5e-7, 1e-3), True),
    "a decay that is larger than the turn": ((5e-4, 1e-2), (5e-4, 1e-3), False),
    "a decay at all sizes": ((5e-5, 1e-2), (5e-5, 1e-2, 1.0, 5e-5), False),
    "in proportion, and not in the first step": (
        (5e-5, 1e-2, 1.0, 0.0),
        (5e-5, 1e-2, 1.0, 0.0),
        True,
    ),
}


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_turning_is_not_a_decay(name):
    *both, second_order = SECOND_ORDER[name]
    settings = (MAIN, MAIN._replace(weight_scale=10.0))
    found = dict(zip(settings, (turned(*each) for each in both), strict=True))
    assert patterns.is_second_order(found) == second_order


# --- pulls that are not linear ------------------------------------------------------


def pulled(rate, derivative, sign=1.0, target=0.0, exact=True):
    """Weights that lose ``rate`` per step, in a run from ±1, towards ``target``."""
    trace = trace_of(derivative)
    gone = 1.0 - (1.0 - rate) ** (T[:, None] + 1.0)
    start = sign * np.ones(WEIGHTS)
    weights = np.broadcast_to(start + gone * (target - start), trace.weights.shape)
    trace = trace._replace(weights=weights)
    return reading_of(trace, trace, Subject(WEIGHTS, exact, True, start))


def test_a_pull_without_a_derivative_is_not_linear():
    assert pulled(1e-3, derivative=0.0).is_nonlinear  # L1
    assert pulled(1e-3, derivative=3e-3).is_nonlinear  # a third power
    assert not pulled(1e-3, derivative=0.95e-3).is_nonlinear
    assert not pulled(1e-3, derivative=1e-3, exact=False).is_nonlinear


@pytest.mark.parametrize(("target", "rate"), [(0.0, 1e-3), (0.5, 1e-3), (5.0, 1e-3)])
def test_a_pull_to_another_value_cancels(target, rate):
    """The mean of the runs from θ₀ and from −θ₀ only shows the pull to 0."""
    one = {MAIN: pulled(rate, 0.0, target=target)}
    opposite = MAIN._replace(weight_scale=-1.0)
    other = {opposite: pulled(rate, 0.0, sign=-1.0, target=target)}
    (found,) = with_values(one, other).values()
    assert found.is_nonlinear
    assert found.best.rate == pytest.approx(rate, rel=1e-3)


def test_a_drift_is_not_a_pull():
    """It has the same sign from θ₀ and from −θ₀."""
    one = pulled(1e-3, 0.0)
    assert one.value is not None
    drift = one.difference_trace._replace(weights=one.difference_trace.weights - 2.0)
    other = one._replace(difference_trace=drift)
    opposite = MAIN._replace(weight_scale=-1.0)
    (found,) = with_values({MAIN: one}, {opposite: other}).values()
    assert found.value is None
    assert not found.is_nonlinear
    assert found.best.rate == 0.0


# --- time ---------------------------------------------------------------------------

SHARES = {
    "every step": (np.full(STEPS, 1e-3), 1.0),
    "every tenth step": (np.where(T % 10 == 9, 1e-3, 0.0), 0.1),
    "every second step": (np.where(T % 2 == 0, 1e-3, 0.0), 0.5),
    "from step 100 on": (np.where(T >= 100, 1e-3, 0.0), 1.0),
    "up to step 100": (np.where(T < 100, 1e-3, 0.0), 1.0),
    "in two parts": (np.where((T < 50) | (T >= 150), 1e-3, 0.0), 0.5),
    "nine steps of ten": (np.where(T % 10 < 9, 1e-3, 0.0), 1.0),
    "a tenth of the rate": (np.where(T % 2 == 0, 1e-3, 1e-4), 1.0),
}


@pytest.mark.parametrize("name", SHARES)
def test_the_share_of_the_steps_that_decay(name):
    rates, share = SHARES[name]
    assert patterns.share_of_steps(reading(by_steps(rates))) == pytest.approx(share)


def test_regular_steps_that_move_nothing_do_not_count():
    """As in MultiSteps: in 3 of 4 steps no weight moves."""
    rates = by_steps(np.where(T % 4 == 3, 1e-3, 0.0))
    assert patterns.share_of_steps(reading(rates, noise=0.0)) == 1.0
    random = by_steps(np.where(RANDOM.random(STEPS) < 0.25, 1e-3, 0.0))
    share = np.mean(random > 0.0)
    assert patterns.share_of_steps(reading(random, noise=0.0)) == share


CHANGES = {
    "constant": (np.full(STEPS, 1e-3), False),
    "a ramp": (1e-5 * T, True),
    "a ramp down": (2e-3 - 1e-5 * T, True),
    "half of it": (np.where(T < 100, 1e-3, 0.0), True),
    "a period": (1e-3 * (1.5 + np.sin(2 * np.pi * T / 50)), False),
    "up and down": (1e-3 * np.minimum(T, STEPS - T) / 100, False),
    "a few per cent": (1e-3 * (1 + 1e-4 * T), False),
    "noise": (1e-3 * (1 + 0.1 * RANDOM.normal(size=STEPS)), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whether_the_rate_still_changes(name):
    rates, changes = CHANGES[name]
    assert patterns.still_changes(reading(by_steps(rates))) == changes


def test_a_few_steps_do_not_show_a_change():
    trace = trace_of(by_steps(1e-5 * T))
    short = Trace(*(field[:, :30] for field in trace))
    subject = Subject(WEIGHTS, True, True, np.ones(WEIGHTS))
    assert not patterns.still_changes(reading_of(short, short, subject))


# --- the mode of readings -----------------------------------------------------------


def readings(main, others=(), exact=True):
    """Readings: the main one, and pairs (changes of the setting, rates)."""
    settings = {MAIN: main} | {MAIN._replace(**change): r for change, r in others}
    return {s: reading(rates, exact=exact) for s, rates in settings.items()}


SCALES = [{"gradient_scale": 0.01}, {"gradient_scale": 100.0}]
SIZES = [{"weight_scale": 0.1}, {"weight_scale": 10.0}]
OTHER_SEED = {"seed": 1}
ROWS = 1e-3 * SPREAD
MODES = {
    "uniform": (1e-3, [(change, 1e-3) for change in [*SCALES, *SIZES]]),
    "none": (0.0, [(change, 0.0) for change in [*SCALES, *SIZES]]),
    "growth": (-1e-3, [(change, -1e-3) for change in [*SCALES, *SIZES]]),
    "uneven": (ROWS, [(change, ROWS) for change in [*SCALES, *SIZES]]),
    "gradient-dependent": (1e-3, [(SCALES[0], 1e-3), (SCALES[1], 0.8e-3)]),
    "scale-dependent": (1e-3, [(SIZES[0], 1e-3), (SIZES[1], 0.8e-3)]),
    "gated": (1e-3 * coins(0.5), [(change, 1e-3 * coins(0.5)) for change in SCALES]),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_of_readings(mode):
    assert mode_of(readings(*MODES[mode])) == mode


def test_rates_within_a_tenth_are_equal():
    for other, mode in ((0.92e-3, "uniform"), (0.88e-3, "gradient-dependent")):
        assert mode_of(readings(1e-3, [(SCALES[1], other)])) == mode
    for other, mode in ((0.92e-3, "uniform"), (0.88e-3, "scale-dependent")):
        assert mode_of(readings(1e-3, [(SIZES[1], other)])) == mode


def test_another_seed_shows_the_gradients_unless_weights_mix():
    both = readings(1e-3, [(OTHER_SEED, 0.8e-3)])
    assert mode_of(both) == "gradient-dependent"
    assert mode_of(both, elementwise=False) == "uniform"


def test_a_part_of_the_weights_grows():
    for growing, mode in ((2, "uneven"), (8, "growth")):
        rates = np.where(np.arange(WEIGHTS) < growing, -1e-3, 1e-3)
        others = [(change, rates) for change in SCALES]
        assert mode_of(readings(rates, others)) == mode


def test_single_weights_that_change_their_rates():
    """Their mean stays the same."""
    one, other = (1e-3 * RANDOM.uniform(0.5, 1.5, WEIGHTS) for _ in range(2))
    other *= one.mean() / other.mean()
    both = readings(one, [(SCALES[0], other)])
    assert mode_of(both) == "gradient-dependent"
    few = np.where(np.arange(WEIGHTS) < 3, other, one)
    assert mode_of(readings(one, [(SCALES[0], few)])) == "uneven"


# --- causes -------------------------------------------------------------------------


def test_a_preconditioner_or_a_norm_divides_by_the_gradient():
    for exact, large, cause in (
        (True, 1e-5, causes.PRECONDITIONER),
        (False, 1e-5, causes.NORM),
        (True, 5e-4, causes.OTHER),
    ):
        of_scales = readings(1e-3, [(SCALES[0], 1e-3), (SCALES[1], large)], exact)
        found = causes.cause_of(
            "gradient-dependent", MAIN, of_scales, clipped=False, live=None
        )
        assert found == cause


def test_weights_with_a_gradient_have_another_rate():
    for rates, unlike in (
        (1e-3 * HALF, True),
        (1e-3 * ~HALF, True),
        (1e-3 * (1 + 0.5 * HALF), False),
        (0.0, False),
    ):
        assert modes.by_zero_gradient(reading(rates), HALF) == unlike
    assert not modes.by_zero_gradient(reading(1e-3 * HALF), np.full(WEIGHTS, True))


def test_steps_of_one_norm_are_clipped():
    one, other = (reading(1e-4, noise=1e-2) for _ in range(2))
    assert _saturate([one, other], [1.0, 2.0]) == [False, False]

    def clipped(reading, size):
        trace = reading.difference_trace
        shares = trace.step_size / np.sqrt(
            one.difference_trace.step_size**2 + other.difference_trace.step_size**2
        )
        return reading._replace(
            difference_trace=trace._replace(step_size=shares / size)
        )

    both = [clipped(one, 1.0), clipped(other, 2.0)]
    assert _saturate(both, [1.0, 2.0]) == [True, True]


def test_elements_of_one_size_are_clipped():
    free, clip = reading(1e-4, noise=1e-2), reading(1e-4)
    steps = RANDOM.normal(size=(2, STEPS, WEIGHTS)).clip(-1.0, 1.0)
    trace = clip.difference_trace._replace(weights=np.cumsum(1e-2 * steps, 1))
    trace = trace._replace(step_size=RANDOM.uniform(1, 2, (2, STEPS)))
    clip = clip._replace(difference_trace=trace)
    assert _saturate([free, clip], [1.0, 1.0]) == [False, True]


# --- steps of a run -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("horizon", "steps"),
    [
        (1, (0,)),
        (25, (0,)),
        (26, (0, 1)),
        (10_000, (0, 100, 500, 1000, 2500, 5000, 7500, 9975)),
    ],
)
def test_the_steps_of_a_horizon(horizon, steps):
    assert by_step.steps_of_horizon(horizon) == steps


def test_the_kept_share():
    assert by_step.kept_share(((0, 1e-3),), 1000) == pytest.approx(0.999**1000)
    linear = by_step.kept_share(((0, 0.0), (100, 1e-2)), 201)
    rates = np.minimum(np.arange(201) * 1e-4, 1e-2)
    assert linear == pytest.approx(np.prod(1 - rates))
    assert by_step.kept_share(((0, 1e-3), (50, 1.0)), 100) == 0.0
    assert by_step.kept_share(((0, -1e-3),), 100) == pytest.approx(1.001**100)
    assert by_step.kept_share(((0, 2.0),), 1) == 0.0
