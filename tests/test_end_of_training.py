"""The study end_of_training: theory, optimizers, telemetry and words."""

import dataclasses
import functools

import numpy as np
import pytest
import simulated


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]
STEPS, SIZE = 1200, 300


# --- The theory against random gradients ------------------------------------------


def random_walk(rates, decays, beta, adaptive, seed=0):
    """The squares of a weight whose gradients are random and orthogonal to it.

    Its loss does not depend on its size, so ‖g‖ = 1/‖θ‖. An adaptive step divides the
    gradient by its norm.
    """
    rng = np.random.default_rng(seed)
    theta, u = rng.normal(size=SIZE), np.zeros(SIZE)
    theta *= np.sqrt(rates[0] / decays[0]) / np.linalg.norm(theta)
    squares = []
    for rate, decay in zip(rates, decays, strict=True):
        g = rng.normal(size=SIZE)
        g -= (g @ theta) / (theta @ theta) * theta
        g /= np.linalg.norm(g) * np.linalg.norm(theta)
        u = beta * u + (g / np.linalg.norm(g) if adaptive else g)
        squares.append((theta @ theta, g @ g, u @ u))
        theta = theta - rate * (u + decay * theta)
    return np.array(squares).T


def strengths(schedule, is_corrected, rate=0.25, decay=0.125):
    """γ_t and λ_t of a run."""
    eta = 1 - np.arange(STEPS) / STEPS if schedule == "linear" else np.ones(STEPS)
    return rate * eta, decay * (eta if is_corrected else np.ones(STEPS))


def parts(squares, name, segments=12):
    """The ratio ‖g‖/‖θ‖ or ‖u‖/‖θ‖ in each part of the run."""
    weight, gradient, direction = squares.reshape(3, segments, -1).sum(2)
    return np.sqrt({"gradient": gradient, "direction": direction}[name] / weight)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_the_steady_ratio_is_that_of_random_gradients(beta, adaptive):
    from experiments.steady_state import steady_ratio

    rates, decays = strengths("constant", False)
    found = parts(random_walk(rates, decays, beta, adaptive), "direction")
    expected = steady_ratio(rates[0], decays[0], beta)
    np.testing.assert_allclose(found[3:].mean(), expected, rtol=0.02)


def test_the_steady_ratio_is_the_formula_of_the_papers_if_decay_is_weak():
    from experiments.steady_state import steady_ratio

    rate, decay, beta = 0.01, 0.01, 0.9
    plain = np.sqrt(2 * decay / rate)
    assert steady_ratio(rate, decay) == pytest.approx(plain, rel=1e-4)
    expected = plain * np.sqrt((1 - beta) / (1 + beta))
    assert steady_ratio(rate, decay, beta) == pytest.approx(expected, rel=2e-3)
    # Uncorrelated gradients: ‖u‖² = ‖g‖²/(1 - β²).
    gradient = steady_ratio(rate, decay, beta) * np.sqrt(1 - beta**2)
    assert gradient == pytest.approx((1 - beta) * plain, rel=2e-3)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_the_course_stays_in_the_steady_state(beta, adaptive):
    from experiments.steady_state import course, steady_ratio

    rates, decays = strengths("constant", False)
    predicted = course(rates, decays, beta, adaptive)
    expected = steady_ratio(rates[0], decays[0], beta)
    np.testing.assert_allclose(predicted.ratio("direction", 12), expected)


@pytest.mark.parametrize("is_corrected", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_the_course_is_that_of_random_gradients_until_the_end(
    beta, adaptive, is_corrected
):
    from experiments.steady_state import course, steady_ratio

    rates, decays = strengths("linear", is_corrected)
    found = random_walk(rates, decays, beta, adaptive)
    predicted = course(rates, decays, beta, adaptive)
    for name in ("direction", "gradient"):
        measured = parts(found, name)
        expected = predicted.ratio(name, 12)
        if adaptive and name == "gradient":  # known up to a factor
            measured, expected = measured / measured[4], expected / expected[4]
        np.testing.assert_allclose(measured[3:], expected[3:], rtol=0.06)
    growth = parts(found, "direction")[[3, -1]]
    if is_corrected:
        assert growth[1] == pytest.approx(growth[0], rel=0.15)
    else:
        assert growth[1] > 1.5 * growth[0]
        # The steady ratio of the last part is far above: its timescale is too long.
        steady = steady_ratio(rates[-50], decays[-50], beta)
        assert growth[1] < 0.8 * steady


# --- Optimizers and telemetry -----------------------------------------------------

RATE, STRENGTH = 0.5, 0.25


def toy_model(params):
    """It does not depend on the sizes of `hidden/kernel` and `hidden/bias`."""
    import jax.numpy as jnp

    x, shift = params["hidden"]["kernel"], params["hidden"]["bias"]
    x = x / jnp.linalg.norm(x) + shift / jnp.linalg.norm(shift)
    return x @ params["head"]["kernel"] + params["head"]["bias"]


@functools.cache
def toy():
    """Parameters and their symmetries."""
    import jax.numpy as jnp

    import decayax as dx

    params = {
        "head": {
            "kernel": jnp.array([[1.0, -2.0], [0.5, 1.0], [2.0, 1.0]]),
            "bias": jnp.ones(2),
        },
        "hidden": {
            "kernel": jnp.arange(1.0, 10.0).reshape(3, 3),
            "bias": jnp.array([1.0, 2.0, -1.0]),
        },
    }
    return params, dx.scale_symmetries(toy_model, params)


def shrinks(name, eta, monkeypatch):
    """The factors by which one step without gradients shrinks each leaf."""
    import jax
    import jax.numpy as jnp

    import decayax as dx
    from experiments import end_optimizers

    params, symmetries = toy()
    monkeypatch.setattr(end_optimizers, "symmetries_of", lambda *_: symmetries)
    numbers = {"learning_rate": RATE, "weight_decay": STRENGTH}
    optimizer = end_optimizers.with_decay(
        end_optimizers.SGD,
        getattr(end_optimizers, name),
        None,
        {key: jnp.float32(x) for key, x in numbers.items()},
        lambda step: jnp.float32(eta),
        dx.masks.no_bias_or_norm,
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    return jax.tree.map(lambda u, x: np.asarray(-u / x), updates, params)


def test_only_invariant_weights_have_corrected_decay(monkeypatch):
    eta = 0.5
    found = shrinks("corrected", eta, monkeypatch)
    np.testing.assert_allclose(found["head"]["kernel"], eta * RATE * STRENGTH)
    np.testing.assert_allclose(found["hidden"]["kernel"], eta**2 * RATE * STRENGTH)
    for layer in found.values():  # the mask of the task
        np.testing.assert_array_equal(layer["bias"], 0)
    found = shrinks("lr_scaled", eta, monkeypatch)
    np.testing.assert_allclose(found["head"]["kernel"], eta * RATE * STRENGTH)
    np.testing.assert_allclose(found["hidden"]["kernel"], eta * RATE * STRENGTH)
    for layer in found.values():
        np.testing.assert_array_equal(layer["bias"], 0)


def test_both_decays_are_equal_at_the_peak(monkeypatch):
    import jax

    one, other = (shrinks(x, 1.0, monkeypatch) for x in ("corrected", "lr_scaled"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def watched(base, every, grads, thetas):
    """The ratios after steps with these gradients at these weights."""
    import jax.numpy as jnp

    from experiments import end_optimizers

    transform = end_optimizers.watch(base, every)
    state, found = transform.init({"w": jnp.asarray(thetas[0])}), []
    for grad, theta in zip(grads, thetas, strict=True):
        params = {"w": jnp.asarray(theta)}
        _, state = transform.update({"w": jnp.asarray(grad)}, state, params)
        found.append(end_optimizers.ratios(every, (state,), params))
    return [{name: float(x) for name, x in each.items()} for each in found]


def test_ratios_are_sums_over_the_steps_of_a_segment():
    from experiments.end_optimizers import MOMENTUM

    rng = np.random.default_rng(0)
    grads, thetas = rng.normal(size=(2, 3, 4, 2)).astype(np.float32)
    found = watched(MOMENTUM, 2, grads, thetas)
    sums = [np.sum(x**2, (1, 2)) for x in (thetas, grads)]
    directions = [grads[0], 0.9 * grads[0] + grads[1]]
    directions.append(0.9 * directions[1] + grads[2])
    sums.append(np.array([np.sum(u**2) for u in directions]))
    for row, steps in ((1, slice(0, 2)), (2, slice(2, 3))):
        weight, gradient, direction = (x[steps].sum() for x in sums)
        assert found[row]["w/gradient"] == pytest.approx((gradient / weight) ** 0.5)
        assert found[row]["w/direction"] == pytest.approx((direction / weight) ** 0.5)
        assert found[row]["w/weighted"] == pytest.approx(found[row]["w/direction"])
    assert found[1]["w/norm"] == pytest.approx((sums[0][:2].mean()) ** 0.5)


def test_the_metric_of_adam_makes_gradient_and_weight_orthogonal():
    from experiments.end_optimizers import ADAM, B2, EPS

    rng = np.random.default_rng(1)
    grads, thetas = rng.normal(size=(2, 2, 4, 2)).astype(np.float32)
    found = watched(ADAM, 2, grads, thetas)[1]
    m, v, squares = 0.0, 0.0, []
    for step, (grad, theta) in enumerate(zip(grads, thetas, strict=True), 1):
        m, v = 0.9 * m + 0.1 * grad, B2 * v + (1 - B2) * grad**2
        momentum, metric = m / (1 - 0.9**step), np.sqrt(v / (1 - B2**step)) + EPS
        u = momentum / metric
        # ⟨θ, u⟩ in the metric is ⟨θ, m⟩.
        product = np.sum(metric * u * theta)
        assert product == pytest.approx(np.sum(momentum * theta), rel=1e-4)
        terms = theta**2, u**2, metric * theta**2, metric * u**2
        squares.append([np.sum(x) for x in terms])
    weight, direction, weight_in_d, direction_in_d = np.sum(squares, 0)
    expected = (direction_in_d / weight_in_d) ** 0.5
    assert found["w/weighted"] == pytest.approx(expected, rel=1e-5)
    assert found["w/direction"] == pytest.approx((direction / weight) ** 0.5, rel=1e-5)


@pytest.mark.slow
def test_the_hidden_matrices_of_the_study_are_invariant_and_the_head_is_not():
    from experiments.networks import kinds_of
    from experiments.studies.end_of_training import SETUP

    kinds = kinds_of(SETUP, 0)
    found = dict(zip(kinds.paths, kinds.kinds, strict=True))
    assert found == {
        "head/bias": "seen",
        "head/kernel": "seen",
        "hidden/0/kernel": "invariant",
        "hidden/1/kernel": "invariant",
    }


# --- Plan -------------------------------------------------------------------------


def test_arms_of_a_schedule_differ_in_the_decay_only():
    from experiments.engine.describe import describe
    from experiments.search import coarse_grid
    from experiments.studies.end_of_training import FULL

    tasks = {}
    for entry in FULL.entries:
        tasks.setdefault(entry.labels["task"], []).append(entry)
    assert list(tasks) == ["cosine", "linear", "constant"]
    for entries in tasks.values():
        assert [e.labels["arm"] for e in entries] == ["none", "lr-scaled", "corrected"]
        rest = [{**describe(e.config), "make_optimizer": None} for e in entries]
        assert rest == rest[:1] * 3
        none, *decayed = entries
        assert none.fixed == {"weight_decay": 0.0}
        assert len({coarse_grid(e.axes).__repr__() for e in decayed}) == 1
        assert len({e.axes[-1] for e in entries}) == 1  # learning rates
    schedules = [describe(e[0].config.schedule) for e in tasks.values()]
    assert len(set(schedules)) == 3
    for schedule in tasks:
        for pair in ("corrected − lr-scaled", "lr-scaled − none", "corrected − none"):
            assert f"{schedule}: {pair}" in {c.name for c in FULL.contrasts}


def test_the_runs_have_many_timescales_and_seeds_that_choose_nothing():
    from experiments.studies.end_of_training import FULL, SETUP

    steps = FULL.epochs * SETUP.task().steps_per_epoch
    for rate, decay in FULL.points.values():
        assert rate * decay * steps > 30
    assert FULL.watched_seeds >= 10
    assert FULL.epochs % FULL.segments == 0


def table_of(plan):
    """Made-up runs: without decay 2 points worse, corrected as good as lr-scaled."""
    from experiments.studies import end_of_training

    def score(labels, cell):
        drawn = np.random.default_rng(cell["seed"]).normal(0, 0.002)
        distance = abs(np.log2(cell["learning_rate"]) + 10)
        if labels["arm"] != "none":
            distance += abs(np.log2(cell["weight_decay"]) - 4)
        mean = 0.9 - 0.005 * distance - 0.02 * (labels["arm"] == "none") + drawn
        return mean, mean

    table = simulated.table_of(end_of_training.study(plan), score)
    for name in ("test_loss", "train_loss"):
        table[name] = 1.0 - table["test_accuracy"]
    return table


def test_the_chosen_points_are_those_of_validation():
    from experiments.studies import end_of_training

    plan = end_of_training.FULL
    base, points = end_of_training.chosen_runs(plan, table_of(plan))
    assert base.name == "Adam"
    for schedule in plan.schedules:
        assert points[schedule, "none"] == (2.0**-10, 0.0)
        for arm in ("lr-scaled", "corrected"):
            assert points[schedule, arm] == (2.0**-10, 2.0**4)


# --- Report -----------------------------------------------------------------------


def made_up(base, schedule, arm, error=0.0, drift=1.0, spread=0.0, steady_head=False):
    """Ratios that follow the course, the invariant ones up to a relative error.

    The ratio of the head stays, or is its steady one. At the end, the ratio of the
    invariant matrices is multiplied by `drift`, with a spread over the seeds.
    """
    from experiments.reports.end_numbers import Setting

    kinds = {"head": "seen", "one": "invariant", "two": "invariant"}
    seeds, segments = 12, 20
    factors = drift * (1 + spread * np.linspace(-1, 1, seeds))
    setting = Setting(
        base=base.name,
        beta=base.beta,
        adaptive=base.adaptive,
        schedule=schedule,
        arm=arm,
        rate=2.0**-4,
        decay=2.0**-1,
        steps=1080,
        kinds=kinds,
        ratios={"norm": np.ones((seeds, segments, 3))},
    )
    course = setting.course()
    noise = 1 + 1e-3 * np.random.default_rng(0).normal(size=(seeds, segments, 3))
    for name, course_name in (
        ("weighted", "direction"),
        ("direction", "direction"),
        ("gradient", "gradient"),
    ):
        ratio = course.ratio(course_name, segments)[:, None] * noise
        ratio[..., 1:] *= 1 + np.reshape(error, (-1, 1))
        ratio[:, -1, 1:] *= factors[:, None]
        ratio[..., 0] = 2 * ratio[:, :1, 0]
        if steady_head:
            ratio[..., 0] = steady_of_linear(base.beta, setting.steps, segments)
        setting.ratios[name] = ratio
    return setting


def steady_of_linear(beta, steps, segments):
    """The steady ratio of lr-scaled decay with a linear schedule."""
    from experiments.steady_state import steady_ratio

    rates = 2.0**-4 * (1 - np.arange(steps) / steps)
    squares = steady_ratio(rates, np.full(steps, 2.0**-1), beta) ** 2
    return np.sqrt(squares.reshape(segments, -1).mean(1))


def followed(*arguments, **options):
    from experiments.reports.end_numbers import follow

    return follow(made_up(*arguments, **options))


def test_a_ratio_that_follows_its_course_has_no_deviation():
    from experiments.end_optimizers import MOMENTUM

    found = followed(MOMENTUM, "linear", "lr-scaled")
    assert found.deviation.mean < 0.03
    assert found.farther.low > 0.4
    assert [x.mean for x in found.last] == pytest.approx([1, 1], abs=1e-3)
    for growth in found.growth.ratio:
        assert growth.mean == pytest.approx(found.predicted_growth, rel=1e-2)
    assert found.growth.head[0].mean == pytest.approx(1)
    assert 0.5 < found.departure < 1
    assert found.departure == found.predicted_departure
    # Uncorrelated gradients: the raw ratio is that of the formula.
    assert found.others["gradient"] == pytest.approx([1, 1], abs=0.04)
    kept = followed(MOMENTUM, "linear", "corrected")
    assert kept.departure == kept.predicted_departure == 1
    assert kept.predicted_growth == pytest.approx(0.93, abs=0.01)


def test_the_deviation_is_the_relative_error_in_the_domain():
    from experiments.end_optimizers import SGD

    found = followed(SGD, "constant", "lr-scaled", error=0.07, drift=3.0)
    assert found.deviation.mean == pytest.approx(0.07, abs=2e-3)
    assert [x.mean for x in found.last] == pytest.approx([3.21] * 2, rel=1e-2)


def test_the_deviation_begins_after_a_quarter_of_the_run():
    from experiments.end_optimizers import SGD

    errors = 0.01 * np.arange(20)
    found = followed(SGD, "constant", "lr-scaled", error=errors)
    assert found.deviation.mean == pytest.approx(np.median(errors[5:]), abs=2e-3)


def test_the_head_has_the_steady_ratio_of_lr_scaled_decay():
    from experiments.end_optimizers import SGD
    from experiments.reports import end_of_training as report

    found = followed(SGD, "linear", "corrected", error=0.01, steady_head=True)
    assert found.head.mean == pytest.approx(0, abs=1e-5)
    expected = " Not clearly closer than the head: SGD, linear, corrected."
    assert expected in report.steady_verdict([found])


def test_a_growth_is_clear_if_its_interval_is():
    from experiments.end_optimizers import SGD
    from experiments.reports import end_of_training as report

    drift = 1.55 / followed(SGD, "linear", "lr-scaled").growth.ratio[0].mean
    for spread, clear in ((0.01, True), (0.3, False)):
        found = followed(SGD, "linear", "lr-scaled", drift=drift, spread=spread)
        assert found.growth.ratio[0].mean == pytest.approx(1.55, rel=1e-2)
        assert ("Not" not in report.growth_verdict([found])) == clear


def test_verdicts_list_the_settings_that_fail():
    from experiments.end_optimizers import ADAM, SGD
    from experiments.reports import end_of_training as report

    good = followed(SGD, "linear", "lr-scaled")
    bad = followed(ADAM, "linear", "lr-scaled", error=0.2, drift=0.3)
    for verdict, bound in (
        (report.steady_verdict, "Not below 10 %"),
        (report.growth_verdict, "Not clearly above 1.5"),
        (report.end_verdict, "Not clearly within 25 %"),
    ):
        assert "Not" not in verdict([good])
        assert f" {bound}: Adam, linear, lr-scaled." in verdict([good, bad])
    assert "factors of 2.5" in report.growth_verdict([good])
    kept = followed(SGD, "linear", "corrected")
    assert "Not" not in report.kept_verdict([kept])
    for drift in (0.5, 2.0):
        failing = followed(ADAM, "linear", "corrected", drift=drift)
        text = report.kept_verdict([kept, failing])
        assert "Not clearly between 0.67 and 1.5: Adam, linear, corrected." in text


def test_a_ratio_departs_when_it_stays_below():
    from experiments.reports.end_numbers import departure

    assert departure(np.array([1.0, 0.8, 1.0, 0.7])) == 0.75
    assert departure(np.ones(4)) == 1
    assert departure(np.zeros(4)) == 0


def store_measured(folder, plan):
    """Write made-up ratios for every base, and for the chosen points."""
    from experiments import files
    from experiments.studies.end_of_training import ADAM, BASES, fixed_runs

    parts = {f"fixed-{name}": fixed_runs(plan, name) for name in plan.points}
    chosen = {(s, a): (0.1, 0.5) for s, a in parts["fixed-Adam"][1]}
    chosen |= {(s, "none"): (0.1, 0.0) for s in plan.schedules}
    for name, (base, points) in {**parts, "chosen-Adam": (ADAM, chosen)}.items():
        settings = [
            made_up(BASES[base.name], schedule, "lr-scaled" if a == "none" else a)
            for schedule, a in points
        ]
        ratios = {
            ratio: np.stack([x.ratios[ratio] for x in settings]).astype(np.float16)
            for ratio in base.ratios
        }
        schedules, arms = zip(*points, strict=True)
        rates, decays = np.array(list(points.values())).T
        arrays = ratios | {
            "base": np.array(base.name),
            "beta": np.array(base.beta),
            "adaptive": np.array(base.adaptive),
            "schedules": np.array(schedules),
            "arms": np.array(arms),
            "rates": np.full(len(rates), 2.0**-4),
            "decays": np.where(decays > 0, 2.0**-1, 0),
            "steps": np.array(1080),
            "paths": np.array(list(settings[0].kinds)),
            "kinds": np.array(list(settings[0].kinds.values())),
        }
        files.write_arrays(folder / f"{name}.npz", arrays)


@pytest.mark.slow
def test_the_report_says_what_the_made_up_numbers_are(tmp_path):
    from experiments.studies import end_of_training

    plan = dataclasses.replace(end_of_training.FULL, final_seeds=12)
    study = end_of_training.study(plan)
    simulated.store(tmp_path, study, table_of(plan))
    store_measured(tmp_path, plan)
    verdict = end_of_training.write_report(tmp_path)
    for letter in "abcd":
        assert f"({letter}) " in verdict
    assert "Not" not in verdict.partition("**Test accuracy**")[0]
    for schedule in plan.schedules:
        assert (
            f"{schedule}: corrected − lr-scaled +0.00 [+0.00, +0.00], no difference "
            "shown" in verdict
        )
        assert f"{schedule}: lr-scaled − none +2.00" in verdict
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "difference of a test loss is 0, over" in report
    assert "of a measured ratio or norm is 0." in report
    for name in ("ratios.png", "chosen.png", "errors.png"):
        assert (tmp_path / name).stat().st_size > 5_000


@pytest.mark.slow
def test_a_constant_rate_gives_both_decays_the_same_runs():
    from experiments.end_optimizers import ADAM
    from experiments.engine.compilation_cache import new_cache
    from experiments.studies.end_of_training import SMOKE, watch
    from experiments.terminal import SILENT

    points = {
        (schedule, arm): (2.0**-6, 2.0**3)
        for schedule in ("constant", "linear")
        for arm in ("lr-scaled", "corrected")
    }
    found = watch(SMOKE, ADAM, points, new_cache(), SILENT)
    for name in ADAM.ratios:
        ratios = dict(zip(points, found[name], strict=True))
        one, other = (ratios["constant", x] for x in ("lr-scaled", "corrected"))
        np.testing.assert_array_equal(one, other)
        one, other = (ratios["linear", x] for x in ("lr-scaled", "corrected"))
        assert np.max(np.abs(one / other - 1)) > 1e-3
