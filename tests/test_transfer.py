"""Transfer: the exponents, group laws, and what simulated training keeps."""

import math
import re

import budget_reference as ref
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import decayax as dx


KEEPS = tuple(ref.EXPONENTS)
FACTORS = ("batch", "data", "epochs", "width")
positive = st.floats(0.05, 20)
runs = st.fixed_dictionaries({name: positive for name in FACTORS})
strengths = st.tuples(st.floats(1e-5, 1), st.floats(1e-4, 1))
a_rule = st.sampled_from(["same", "sqrt", "linear", "mup", 0.3, 2.0])


def close(found, expected, rel=1e-12):
    assert found == pytest.approx(expected, rel=rel)


# --- factors and group laws -------------------------------------------------------


@settings(deadline=None)
@given(strengths, runs, st.sampled_from(KEEPS), a_rule)
def test_the_exponents_of_each_rule(tuned, run, keep, learning_rate):
    found = dx.transfer(tuned, **run, keep=keep, learning_rate=learning_rate)
    a = learning_rate
    if isinstance(a, str):
        a = ref.learning_rate_factor(a, run["batch"], run["width"])
    close(found.learning_rate, tuned[0] * a)
    rate = tuned[0] * tuned[1] * ref.rate_factor(keep, **run, learning_rate=a)
    close(found.rate, rate)
    close(found.learning_rate * found.weight_decay, rate)
    assert list(found.others) == list(KEEPS)
    for rule, weight_decay in found.others.items():
        factor = ref.rate_factor(rule, **run, learning_rate=a) / a
        close(weight_decay, tuned[1] * factor)
    assert found.others[keep] == found.weight_decay


@settings(deadline=None)
@given(strengths, runs, runs, st.sampled_from(KEEPS), a_rule)
def test_two_transfers_are_one(tuned, first, second, keep, learning_rate):
    how = {"keep": keep, "learning_rate": learning_rate}
    steps = dx.transfer(dx.transfer(tuned, **first, **how), **second, **how)
    both = {name: first[name] * second[name] for name in FACTORS}
    if not isinstance(learning_rate, str):
        how["learning_rate"] = learning_rate**2
    once = dx.transfer(tuned, **both, **how)
    close(steps.learning_rate, once.learning_rate)
    close(steps.weight_decay, once.weight_decay)
    close(steps.rate, once.rate)


@settings(deadline=None)
@given(strengths, runs, st.sampled_from(KEEPS), a_rule)
def test_there_and_back(tuned, run, keep, learning_rate):
    back = {name: 1 / factor for name, factor in run.items()}
    there = dx.transfer(tuned, **run, keep=keep, learning_rate=learning_rate)
    if not isinstance(learning_rate, str):
        learning_rate = 1 / learning_rate
    found = dx.transfer(there, **back, keep=keep, learning_rate=learning_rate)
    close((found.learning_rate, found.weight_decay), tuned)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("learning_rate", ["same", "sqrt", "linear", "mup", 1.0])
def test_the_same_run_has_the_same_strength(keep, learning_rate):
    found = dx.transfer((3e-4, 0.07), keep=keep, learning_rate=learning_rate)
    close((found.learning_rate, found.weight_decay), (3e-4, 0.07))
    assert found.steps is None
    for row in found.rows:
        assert math.isnan(row.factor) or row.factor == pytest.approx(1)


@pytest.mark.parametrize(
    ("keep", "change", "learning_rate", "rate"),
    [
        # The rules for a batch of four: ×4, ×2, ×1.
        ("timescale", {"batch": 4}, "same", 4),
        ("timescale", {"batch": 4}, "sqrt", 4),
        ("timescale", {"batch": 4}, "linear", 4),
        ("sqrt", {"batch": 4}, "same", 2),
        ("angle", {"batch": 4}, "same", 1),
        # More epochs: ×1, ×E^-½. More data: 1/κ, κ^-½.
        ("timescale", {"epochs": 4}, "same", 1),
        ("sqrt", {"epochs": 4}, "same", 1 / 2),
        ("timescale", {"data": 4}, "same", 1 / 4),
        ("sqrt", {"data": 4}, "same", 1 / 2),
        # Four times the width, under μP: ×1, ×1, ×½.
        ("timescale", {"width": 4}, "mup", 1),
        ("angle", {"width": 4}, "mup", 1),
        ("gain", {"width": 4}, "mup", 1 / 2),
        ("sqrt", {"width": 4}, "mup", 1),
    ],
)
def test_the_published_table(keep, change, learning_rate, rate):
    found = dx.transfer((0.1, 0.1), **change, keep=keep, learning_rate=learning_rate)
    close(found.rate / 0.01, rate)


def test_the_weight_decay_of_wider_networks():
    """Under μP: λ × width (W&A, Kosson, mup), × √width (Fan)."""
    for keep, expected in (("timescale", 9), ("angle", 9), ("gain", 3)):
        found = dx.transfer((0.1, 0.01), width=9, keep=keep, learning_rate="mup")
        close(found.weight_decay / 0.01, expected)


def test_a_larger_batch_with_a_square_root_learning_rate():
    """Complete(d)P: γ√κ, λ√κ, and κλ for an independent decay."""
    found = dx.transfer((0.1, 0.01), batch=9, learning_rate="sqrt")
    close(found.learning_rate / 0.1, 3)
    close(found.weight_decay / 0.01, 3)
    close(found.rate / 1e-3, 9)


@pytest.mark.parametrize(
    ("depth", "batch", "printed"), [(24, 2**20, 0.059738), (4, 512, 0.083523)]
)
def test_the_weight_decays_that_nanochat_prints(depth, batch, printed):
    expected, steps, data, factor = ref.nanochat(depth, batch)
    found = dx.transfer((1.0, 0.28), batch=factor, data=data, learning_rate="sqrt")
    assert round(found.weight_decay, 6) == printed
    close(found.weight_decay, expected)
    close(found.learning_rate, math.sqrt(factor))
    if depth == 24:
        assert round(steps) == 5568
        assert dx.recipes.find("nanochat").steps == 5568


# --- the rows ---------------------------------------------------------------------


def expected_rows(run, keep, a):
    """Factors of what the table shows, from the definitions."""
    rate = ref.rate_factor(keep, **run, learning_rate=a)
    per_epoch = run["data"] / run["batch"]
    steps = per_epoch * run["epochs"]
    rms = math.sqrt(a / (rate / a))  # ∝ √(γ/λ)
    return {
        "rate per step": rate,
        "timescale, steps": 1 / rate,
        "timescale, epochs": 1 / rate / per_epoch,
        "timescale, of the run": 1 / rate / steps,
        "rate * sqrt(steps)": rate * math.sqrt(steps),
        "angle per step": math.sqrt(rate),
        "angle^2 per epoch": rate * per_epoch,
        "RMS of the weights": rms,
        "largest singular value": rms * run["width"] ** 0.75,
    }


BY_THE_RULE = {
    "timescale": "timescale, epochs",
    "angle": "angle per step",
    "gain": "largest singular value",
    "sqrt": "rate * sqrt(steps)",
}


@settings(deadline=None)
@given(strengths, runs, st.sampled_from(KEEPS), a_rule)
def test_the_rows(tuned, run, keep, learning_rate):
    a = learning_rate
    if isinstance(a, str):
        a = ref.learning_rate_factor(a, run["batch"], run["width"])
    rows = dx.transfer(tuned, **run, keep=keep, learning_rate=learning_rate).rows
    factors = {row.quantity: row.factor for row in rows}
    for quantity, factor in expected_rows(run, keep, a).items():
        close(factors[quantity], factor, rel=1e-9)
    kept = {row.quantity: row.kept for row in rows}
    assert kept[BY_THE_RULE[keep]] == "by the rule"
    assert [key for key in kept if kept[key] == "by the rule"] == [BY_THE_RULE[keep]]
    for quantity, text in kept.items():
        if text == "yes":
            close(factors[quantity], 1, rel=1e-6)
    for row in rows:
        if not (math.isnan(row.old) or math.isnan(row.factor)):
            close(row.new / row.old, row.factor, rel=1e-9)


def test_what_is_kept_of_the_initial_weights():
    found = dx.transfer((1e-3, 0.5), steps=4000, data=2, epochs=3, batch=4)
    close(found.steps, 4000 * 2 * 3 / 4)
    rows = {row.quantity: row for row in found.rows}
    init = rows["init kept, constant lr"]
    close(init.old, (1 - 5e-4) ** 4000, rel=1e-10)
    close(init.new, (1 - found.rate) ** found.steps, rel=1e-10)
    run = rows["timescale, of the run"]
    close((run.old, run.new), (1 / (5e-4 * 4000), 1 / (found.rate * found.steps)))
    again = dx.transfer(found, batch=2)
    close(again.steps, found.steps / 2)


def test_the_table():
    found = dx.transfer((1e-3, 0.1), batch=4, steps=1000, learning_rate="sqrt")
    assert found.table() == str(found) == repr(found)
    lines = [line.rstrip() for line in found.table().splitlines()]
    assert lines == TABLE.strip().splitlines()


TABLE = """
learning rate 0.002, weight decay 0.2 (independent: 0.0004)
                             old       new  factor  kept
rate per step             0.0001    0.0004       4
timescale, steps           1e+04      2500    0.25
timescale, epochs                                1  by the rule
timescale, of the run         10        10       1  yes
rate * sqrt(steps)      0.003162  0.006325       2
angle per step                                   2
angle^2 per epoch                                1  yes
RMS of the weights                               1  yes
largest singular value                           1  yes
init kept, constant lr    0.9048    0.9048

rule       keeps                   weight decay
timescale  timescale, epochs                0.2  Wang & Aitchison
angle      angle per step                  0.05  Kosson et al.; mup
gain       largest singular value           0.2  Fan et al.
sqrt       rate * sqrt(steps)               0.1  Loshchilov & Hutter
"""


def test_no_decay_stays_no_decay():
    found = dx.transfer((1e-3, 0.0), batch=4, width=2, keep="gain", steps=100)
    assert (found.weight_decay, found.rate) == (0, 0)
    assert set(found.others.values()) == {0}
    assert "nan" not in str(found)


# --- simulated training -------------------------------------------------------------


def angles(strength, *, b1, theta, steps, seed):
    """Angles between consecutive weights under AdamW, whose gradients are noise."""
    optimizer = dx.adamw(strength[0], b1=b1, weight_decay=strength[1])

    def step(carry, key):
        theta, state = carry
        grads = jax.random.normal(key, theta.shape)
        updates, state = optimizer.update(grads, state, theta)
        new = theta + updates
        cosine = theta @ new / jnp.sqrt((theta @ theta) * (new @ new))
        return (new, state), jnp.arccos(cosine)

    keys = jax.random.split(jax.random.key(seed), steps)
    run = jax.jit(lambda c, k: jax.lax.scan(step, c, k))
    (last, _), found = run((theta, optimizer.init(theta)), keys)
    return np.asarray(found), last


def weights(rms, count=20_000):
    drawn = np.random.default_rng(0).normal(size=count)
    return jnp.asarray(rms * drawn / math.sqrt(np.mean(drawn**2)))


def steady(strength, b1, seed=1, steps=300):
    """The mean angle from the equilibrium on, without the first steps of Adam."""
    theta = weights(ref.equilibrium_rms(*strength))
    return angles(strength, b1=b1, theta=theta, steps=steps, seed=seed)[0][100:].mean()


@pytest.mark.usefixtures("x64")
@pytest.mark.relaxed("random numbers")
@pytest.mark.parametrize("b1", [0.0, pytest.param(0.9, marks=pytest.mark.slow)])
def test_the_angle_is_kept_across_widths(b1):
    old = (0.02, 0.1)
    new = dx.transfer(old, width=4, keep="angle", learning_rate="mup")
    before = steady(old, b1)
    after = steady((new.learning_rate, new.weight_decay), b1, seed=2)
    assert after == pytest.approx(before, rel=0.01)
    # With momentum, the formula is for small rates.
    close = 0.01 if b1 == 0 else 0.03
    assert before == pytest.approx(ref.steady_angle(2e-3, b1), rel=close)


@pytest.mark.usefixtures("x64")
@pytest.mark.relaxed("random numbers")
def test_the_squared_angle_of_an_epoch_is_kept_across_batch_sizes():
    """The angle of a step doubles, and an epoch has a quarter of the steps."""
    old = (0.02, 0.05)
    new = dx.transfer(old, batch=4, keep="timescale", learning_rate="linear")
    before = steady(old, 0.0)
    after = steady((new.learning_rate, new.weight_decay), 0.0, seed=2)
    assert after**2 / 4 == pytest.approx(before**2, rel=0.01)
    row = {row.quantity: row for row in new.rows}["angle^2 per epoch"]
    assert (row.factor, row.kept) == (pytest.approx(1), "yes")


@pytest.mark.usefixtures("x64")
@pytest.mark.relaxed("random numbers")
def test_a_smaller_learning_rate_at_the_same_rate_is_a_warm_up():
    """Old weights are too large for (γ/m, mλ): the angle rises from 1/m of its end."""
    m, old = 4, (0.05, 0.1)
    new = dx.transfer(old, width=m, keep="angle", learning_rate="mup")
    strength = (new.learning_rate, new.weight_decay)
    theta = weights(ref.equilibrium_rms(*old), count=60_000)
    found, last = angles(strength, b1=0.0, theta=theta, steps=600, seed=3)
    end = ref.steady_angle(5e-3, 0.0)
    assert new.rate == pytest.approx(5e-3)
    for t in (0, 100, 200, 300, 500):
        window = np.arange(t, t + 20)
        expected = ref.implicit_warm_up(window, 5e-3, m).mean()
        assert found[window].mean() / end == pytest.approx(expected, rel=0.01)
    rms = float(jnp.sqrt(jnp.mean(last**2)))
    assert rms == pytest.approx(ref.equilibrium_rms(*strength), rel=0.03)


def normalised(x):
    """Layer norm with epsilon 0."""
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True))


@pytest.mark.usefixtures("x64")
@pytest.mark.relaxed("layer norm")
@pytest.mark.parametrize("keep", ["angle", "timescale", "sqrt"])
def test_scale_invariant_networks_do_not_see_a_larger_learning_rate(keep):
    """(γ, λ, θ_0, ε) and (kγ, λ/k, kθ_0, ε/k) give the same outputs at every step."""
    k, eps, old = 3.7, 1e-6, (0.02, 0.3)
    new = dx.transfer(old, keep=keep, learning_rate=k)
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(32, 6))), jnp.asarray(rng.normal(size=32))
    readout = jnp.asarray(rng.normal(size=5))
    init = {"a": rng.normal(size=(6, 8)), "b": rng.normal(size=(8, 5))}

    def outputs(params):
        hidden = jnp.maximum(normalised(x @ params["a"]), 0.0)
        return normalised(hidden @ params["b"]) @ readout

    def trained(strength, scale, eps):
        optimizer = dx.adamw(strength[0], eps=eps, weight_decay=strength[1])

        def step(carry, _):
            params, state = carry
            loss = lambda p: jnp.mean((outputs(p) - y) ** 2)  # noqa: E731
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), outputs(params)

        params = jax.tree.map(lambda leaf: scale * jnp.asarray(leaf), init)
        carry = params, optimizer.init(params)
        return np.asarray(jax.jit(lambda c: jax.lax.scan(step, c, length=60))(carry)[1])

    expected = trained(old, 1.0, eps)
    found = trained((new.learning_rate, new.weight_decay), k, eps / k)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    kept = trained((new.learning_rate, old[1]), k, eps / k)  # λ is not transferred
    assert np.abs(kept - expected).max() > 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.relaxed("random numbers")
def test_the_noisy_quadratic():
    """E θ² is e^{-2t̂/τ̂} θ_0² + σ²/(2τ̂) (1 - e^{-2t̂/τ̂}); targets have σ²T per step."""
    steps, tau_hat, theta_0, sigma, count = 400, 0.25, 3.0, 1.5, 20_000
    learning_rate = 0.1
    decay = 1 / (tau_hat * steps * learning_rate)
    optimizer = dx.sgdw(learning_rate, weight_decay=decay)

    def step(carry, key):
        theta, state = carry
        target = sigma * math.sqrt(steps) * jax.random.normal(key, theta.shape)
        updates, state = optimizer.update(-decay * target, state, theta)
        theta = theta + updates
        return (theta, state), jnp.mean(theta**2)

    theta = jnp.full(count, theta_0)
    keys = jax.random.split(jax.random.key(0), steps)
    run = jax.jit(lambda c, k: jax.lax.scan(step, c, k)[1])
    found = np.asarray(run((theta, optimizer.init(theta)), keys))
    error = 4 * math.sqrt(2 / count)  # four standard errors of a mean square
    for t in (20, 100, 200, 400):
        spent = dx.budget(learning_rate=learning_rate, weight_decay=decay, steps=t)
        noise = steps * sigma**2 * np.sum(spent.shares**2)
        exact = spent.init**2 * theta_0**2 + noise
        assert found[t - 1] == pytest.approx(exact, rel=error)
        law = ref.noisy_quadratic(t / steps, tau_hat, theta_0, sigma)
        assert exact == pytest.approx(law, rel=2 / (tau_hat * steps))


# --- errors -----------------------------------------------------------------------

NUMBERS = [*ref.NOT_POSITIVE, (None, "None of type NoneType")]


def refused(error, message, *args, **kwargs):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        dx.transfer(*args, **kwargs)


@pytest.mark.parametrize("name", ["steps", *FACTORS])
@pytest.mark.parametrize(("value", "got"), NUMBERS)
def test_a_factor_that_is_not_a_number(name, value, got):
    if name == "steps" and value is None:
        pytest.skip("steps=None: not known")
    message = f"transfer: {name} must be a finite number > 0, got {got}."
    refused(ValueError, message, (0.1, 0.1), **{name: value})


@pytest.mark.parametrize(("value", "got"), NUMBERS[1:])
def test_a_learning_rate_factor_that_is_not_a_number(value, got):
    message = (
        f"transfer: learning_rate, as a factor, must be a finite number > 0, got {got}."
    )
    refused(ValueError, message, (0.1, 0.1), learning_rate=value)


def test_names_that_are_not_known():
    message = (
        "transfer: learning_rate must be one of 'same', 'sqrt', 'linear', 'mup', got "
        "'x' of type str. Or pass the factor of the learning rate."
    )
    refused(ValueError, message, (0.1, 0.1), learning_rate="x")


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("timescales", "'timescales' of type str"),
        (None, "None of type NoneType"),
        (3, "3 of type int"),
        (["angle"], "['angle'] of type list"),
        (np.ones(3), "array([1., 1., 1.]) of type ndarray"),
    ],
)
def test_rules_that_are_not_known(value, got):
    message = (
        "transfer: keep must be one of 'timescale', 'angle', 'gain', 'sqrt', got "
        f"{got}."
    )
    refused(ValueError, message, (0.1, 0.1), keep=value)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("ab", "'ab' of type str"),
        (None, "None of type NoneType"),
        (0.1, "0.1 of type float"),
        ((0.1,), "(0.1,) of type tuple"),
        ((0.1, 0.1, 0.1), "(0.1, 0.1, 0.1) of type tuple"),
        ({0.1, 0.2}, "{0.1, 0.2} of type set"),
    ],
)
def test_a_strength_that_is_not_a_pair(value, got):
    message = (
        f"transfer: tuned must be (learning rate, weight decay), got {got}. Pass "
        "transfer((1e-3, 0.1), batch=4), for example."
    )
    refused(TypeError, message, value)


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ((0.0, 0.1), "the learning rate must be a finite number > 0, got 0.0"),
        ((-0.1, 0.1), "the learning rate must be a finite number > 0, got -0.1"),
        ((math.nan, 0.1), "the learning rate must be a finite number > 0, got nan"),
        # 0 is allowed.
        ((0.1, -0.1), "the weight decay must be a finite number >= 0, got -0.1"),
        ((0.1, math.nan), "the weight decay must be a finite number >= 0, got nan"),
        ((0.1, math.inf), "the weight decay must be a finite number >= 0, got inf"),
    ],
)
def test_a_strength_that_is_not_two_numbers(tuned, message):
    refused(ValueError, f"transfer: {message} of type float.", tuned)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("batch", "batch must be a finite number > 0"),
        ("steps", "steps must be a finite number > 0"),
        ("learning_rate", "learning_rate, as a factor, must be a finite number > 0"),
        ("tuned 0", "the learning rate must be a finite number > 0"),
        ("tuned 1", "the weight decay must be a finite number >= 0"),
    ],
)
def test_traced_numbers_are_refused(where, message):
    def call(x):
        if where.startswith("tuned"):
            dx.transfer((x, 0.1) if where.endswith("0") else (0.1, x))
        else:
            dx.transfer((0.1, 0.1), **{where: x})
        return x

    pattern = f"^transfer: {re.escape(message)}, got .*Tracer"
    with pytest.raises(ValueError, match=pattern):
        jax.jit(call)(0.5)


def test_numbers_of_several_types():
    expected = dx.transfer((0.5, 0.25), batch=4).weight_decay
    for number in (4, np.int64(4), np.float32(4), jnp.float32(4.0), np.array(4.0)):
        assert dx.transfer((np.float32(0.5), 0.25), batch=number).weight_decay == (
            expected
        )
        assert isinstance(dx.transfer([0.5, 0.25], batch=number).weight_decay, float)
