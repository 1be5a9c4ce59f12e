"""The study on the strength of decay: optima, exponents, regrets and its settings."""

import dataclasses
import itertools

import numpy as np
import pytest
import simulated
from scipy import stats


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("the experiments run under JAX's defaults"),
]
ALL = np.ones(1, bool)


def bowl(rates, decays, rate=-7.3, decay=0.4, slope=0.0, height=2.0, noise=()):
    """Losses with the minimum `height` at (rate, decay); the ridge has a slope."""
    noise = np.zeros(1) if len(noise) == 0 else np.asarray(noise)
    return {
        (float(x), float(y)): height
        + 0.03 * (x - rate) ** 2
        + 0.05 * (y - decay - slope * (x - rate)) ** 2
        + noise * (1 + 0.1 * y)
        for x, y in itertools.product(rates, decays)
    }


# --- Optima -----------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
def test_the_minimum_of_a_parabola_is_exact(step):
    from experiments.optima import along_decay, lowest

    losses = bowl([-7.3, -6], step * np.arange(-2, 4))
    found = along_decay(losses, -7.3, ALL)
    assert found == pytest.approx((0.4, 2.0, True))
    assert lowest(losses, -7.3, ALL) == 0
    shifted = bowl([-7.3], np.arange(-2, 4), decay=0.6)
    assert lowest(shifted, -7.3, ALL) == 1


def test_an_optimum_at_an_end_is_not_inside():
    from experiments.optima import along_decay, Optimum

    losses = bowl([0.0], np.arange(1, 4), decay=-1.0, rate=0.0)
    assert along_decay(losses, 0.0, ALL) == Optimum(1, losses[0, 1].item(), False)
    losses = bowl([0.0], np.arange(1, 4), decay=9.0, rate=0.0)
    assert along_decay(losses, 0.0, ALL) == Optimum(3, losses[0, 3].item(), False)


def test_the_optimum_does_not_jump_when_another_point_becomes_the_lowest():
    from experiments.optima import along_decay

    def place(change):
        values = (1.0, 0.3, 0.3 + change, 2.0)
        losses = {(0.0, float(y)): np.array([x]) for y, x in enumerate(values)}
        return along_decay(losses, 0.0, ALL).place

    assert place(-1e-6) == pytest.approx(place(1e-6), abs=1e-5)
    assert place(1e-6) == pytest.approx(1.5, abs=1e-5)


@pytest.mark.parametrize("slope", [0.0, -0.6])
def test_both_optima_of_a_bowl(slope):
    from experiments.optima import along_both

    losses = bowl(np.arange(-9, -4), np.arange(-4, 5), slope=slope)
    best, decay = along_both(losses, ALL)
    # Each rate has its lowest tried λ, at most half an octave from its best one.
    assert best.inside
    assert best.place == pytest.approx(-7.3, abs=0.25)
    assert 2.0 <= best.loss <= 2.02
    assert decay == pytest.approx(0.4 + slope * (best.place + 7.3))


def test_losses_between_points_are_on_straight_lines():
    from experiments.optima import loss_at

    losses = {(0.0, y): np.array([x, 9.0]) for y, x in ((1.0, 5.0), (2.0, 3.0))}
    seeds = np.array([True, False])
    places = {0.0: 5.0, 1.0: 5.0, 1.25: 4.5, 2.0: 3.0, 7.0: 3.0}
    for place, expected in places.items():
        assert loss_at(losses, 0.0, place, seeds) == pytest.approx(expected)


# --- Which points to try next -----------------------------------------------------


@pytest.mark.parametrize(("rate", "decay"), [(-7.3, 0.4), (-4.2, 5.3), (-9.9, -3.6)])
def test_a_grid_grows_until_the_optimum_is_bracketed(rate, decay):
    from experiments.optima import along_both, along_decay, Grid, points_to_add

    def losses(points):
        noise = np.linspace(-0.002, 0.002, 5)
        found = {}
        for x, y in points:
            found |= bowl([x], [y], rate, decay, -0.5, noise=noise)
        return found

    grid = Grid(1.0, 1.0, (-20.0, -20.0), (20.0, 20.0))
    points = set(itertools.product((-8.0, -7.0, -6.0), (-1.0, 0.0, 1.0)))
    for _ in range(30):
        new = points_to_add(losses(points), grid, -7.0, wanted=(2.5, -2.5))
        assert not points & set(new)
        assert len(new) == len(set(new))
        if not new:
            break
        points |= set(new)
    assert new == []
    regular = grid.regular(losses(points))
    assert len(regular) == len(points) - 2
    for seeds in (np.ones(5, bool), ~np.eye(5, dtype=bool)[2]):
        best, place = along_both(regular, seeds)
        assert best.inside
        assert best.place == pytest.approx(rate, abs=0.3)
        assert place == pytest.approx(decay, abs=0.3)
        assert along_decay(regular, -7.0, seeds).inside
    at_rate = [y for x, y in points if x == -7.0]
    assert min(at_rate) <= -2.5
    assert max(at_rate) >= 2.5
    # What is wanted was tried. Without it, every column of λ has no gaps.
    assert {(-7.0, 2.5), (-7.0, -2.5)} < points
    for x in {x for x, _ in points}:
        column = sorted(y for other, y in points if other == x and y % 1 == 0)
        assert np.diff(column).tolist() == [1.0] * (len(column) - 1)


def test_a_grid_does_not_grow_out_of_its_bounds():
    from experiments.optima import Grid, points_to_add

    grid = Grid(1.0, 1.0, (-8.0, -1.0), (-6.0, 1.0))
    losses = bowl((-8, -7, -6), (-1, 0, 1), rate=-20, decay=9)
    assert points_to_add(losses, grid, -7.0, wanted=(30.0, -30.0)) == []


def test_a_lucky_seed_does_not_end_the_growth():
    """Without the first seed the lowest point is the last one."""
    from experiments.optima import Grid, points_to_add

    losses = {
        (0.0, 0.0): np.array([3.0, 3, 3, 3]),
        (0.0, 1.0): np.array([0.0, 2, 2, 2]),
        (0.0, 2.0): np.array([2.0, 1.9, 1.9, 1.9]),
    }
    grid = Grid(1.0, 1.0, (0.0, -9.0), (0.0, 9.0))
    assert points_to_add(losses, grid, 0.0) == [(0.0, 3.0)]


# --- Over seeds -------------------------------------------------------------------


def test_the_jackknife_of_a_mean_is_students_interval():
    from experiments.optima import jackknife

    values = np.random.default_rng(1).normal(0.3, 1, 7)
    (found,) = jackknife(lambda seeds: np.array([values[seeds].mean()]), 7)
    error = values.std(ddof=1) / 7**0.5
    low, high = stats.t.interval(0.95, 6, values.mean(), error)
    p = stats.ttest_1samp(values, 0).pvalue
    assert found == pytest.approx((values.mean(), low, high, p))
    (few,) = jackknife(lambda seeds: np.array([values[:3][seeds].mean()]), 3)
    assert (few.low, few.high, few.p) == (-np.inf, np.inf, 1.0)
    (undefined,) = jackknife(lambda seeds: np.array([np.nan]), 7)
    assert (undefined.low, undefined.high, undefined.p) == (-np.inf, np.inf, 1.0)


def test_intervals_of_an_optimum_cover_it():
    """Nominally in 95 % of the cases."""
    from experiments.optima import along_decay, jackknife

    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        losses = {
            (0.0, float(y)): 0.03 * (y - 0.2) ** 2 + rng.normal(0, 0.01, 6)
            for y in range(-3, 4)
        }
        (found,) = jackknife(
            lambda seeds, losses=losses: np.array(
                [along_decay(losses, 0.0, seeds).place]
            ),
            6,
        )
        hits += found.low <= 0.2 <= found.high
    assert 0.90 < hits / 300 < 0.99


def test_the_exponent_is_a_slope():
    from experiments.optima import slope

    factors = {"a": -1.0, "b": 0.0, "c": 2.0, "not used": 5.0}
    places = {"a": 1.0, "b": 1.5, "c": 2.5}
    assert slope(factors, places) == pytest.approx(0.5)
    assert np.isnan(slope(factors, {"b": 1.0}))


def test_the_seed_that_scores_does_not_choose():
    from experiments.optima import regrets

    validation = {
        (0.0, 0.0): np.array([0.0, 5.0, 5.0]),
        (0.0, 1.0): np.array([9.0, 1.0, 1.0]),
    }
    test = {
        (0.0, 0.0): np.array([7.0, 2.0, 2.0]),
        (0.0, 1.0): np.array([3.0, 4.0, 4.5]),
    }
    # For seed 0 the other two choose 2^1. For each of these, seed 0 and the third seed
    # choose 2^0, because 0 + 5 < 9 + 1.
    found = regrets(
        validation, (validation, test), 0.0, [0.0, 1.0, -1.0], np.ones(3, bool)
    )
    by_seed = np.array([[0, 0, 0], [0, 4 - 2, 4.5 - 2], [7 - 3, 0, 0]])
    np.testing.assert_allclose(found, by_seed.mean(1))
    two = regrets(validation, (validation, test), 0.0, [1.0], np.array([0, 1, 1], bool))
    np.testing.assert_allclose(two, [0.0])


# --- The rules --------------------------------------------------------------------


def test_the_exponents_of_the_rules_follow_from_what_they_keep():
    from experiments.strengths import BATCH, DATA, EPOCHS, ROOT, RULES, SAME, TIMESCALE

    for axis in (BATCH, EPOCHS, DATA):
        sizes = {BATCH: 16.0, EPOCHS: 10.0, DATA: 800.0}
        steps_per_epoch, steps, decays = [], [], {rule: [] for rule in RULES}
        for factor in (1.0, 2.0):
            now = sizes | {axis: sizes[axis] * factor}
            steps_per_epoch.append(now[DATA] / now[BATCH])
            steps.append(steps_per_epoch[-1] * now[EPOCHS])
            for rule, powers in RULES.items():
                decays[rule].append(factor ** powers[axis])
        keeps = np.array(decays[TIMESCALE]) * steps_per_epoch
        assert keeps[0] == pytest.approx(keeps[1])
        keeps = np.array(decays[ROOT]) * np.sqrt(steps)
        assert keeps[0] == pytest.approx(keeps[1])
        assert decays[SAME] == [1, 1]


# --- The settings -----------------------------------------------------------------


def test_a_setting_differs_from_its_reference_in_one_thing():
    from experiments.engine.describe import describe
    from experiments.strengths import BATCH, DATA, EPOCHS
    from experiments.studies.strength import FULL

    for task in FULL.tasks:
        reference, *settings = task.settings
        assert (reference.axis, reference.factor) == ("reference", 1)
        for setting in settings:
            before, now = (sizes(task, each.config) for each in (reference, setting))
            for axis in (BATCH, EPOCHS, DATA):
                factor = setting.factor if axis == setting.axis else 1
                assert now[axis] == pytest.approx(factor * before[axis])
            rest = [describe(each.config) for each in (reference, setting)]
            for each in rest:
                each |= {"epochs": 0, "epochs_per_segment": 0}
                each["setup"] |= {"batch": 0, "train_size": 0}
            assert rest[0] == rest[1]


def sizes(task, config):
    """Batch, data and epochs; on one pass the data are the tokens that are read."""
    from experiments.strengths import BATCH, DATA, EPOCHS

    setup = config.setup
    if not hasattr(setup, "length"):
        return {
            BATCH: setup.batch,
            EPOCHS: config.epochs,
            DATA: setup.train_size,
        }
    read = config.epochs * setup.steps_per_epoch * setup.batch * setup.length
    size = setup.data.keywords["train_size"]
    if size is None:
        return {BATCH: setup.batch, EPOCHS: 1, DATA: read}
    return {BATCH: setup.batch, EPOCHS: read / size, DATA: size}


def test_the_tasks_are_what_they_were_asked_to_be():
    from experiments.strengths import BATCH, EPOCHS
    from experiments.studies.strength import FULL

    text, one_pass, *digits = FULL.tasks
    for task in (text, one_pass):
        setups = [setting.config.setup for setting in task.settings]
        steps = [
            s.config.epochs * s.config.setup.steps_per_epoch for s in task.settings
        ]
        assert {setup.evaluated for setup in setups} == {256}
        if task is text:
            assert steps == [1000, 500, 2000, 2000, 500]
            assert [setup.batch for setup in setups] == [16, 16, 16, 8, 32]
        else:
            assert steps == [1000, 500, 2000]
    assert text.axes == [EPOCHS, BATCH]
    assert len(digits) == 4
    for task in digits:
        noise = task.settings[0].config.setup.label_noise
        # Where labels are wrong, a low loss on right labels is no sign of learning.
        assert task.measure.score == ("val_accuracy" if noise else "val_loss")
        assert ("wrong" in task.name) == (noise > 0)
    counts = {task.name: len(FULL.seeds_of(task)) for task in FULL.tasks}
    assert counts["text, re-read"] == 5
    assert set(counts.values()) == {5, 7}


# --- From runs to words -----------------------------------------------------------


POWERS = {"batch": 0.5, "epochs": 1.0, "data": -1.0}  # of the best λ


def made_up(task_name, setting, hparams):
    """The error in % has a bowl; the best λ moves by `POWERS`."""
    octaves = np.log2(setting.factor)
    decay = setting.decay + 0.3 + POWERS.get(setting.axis, 0.0) * octaves
    drawn = np.random.default_rng(
        [hparams["seed"], len(task_name), round(100 + 8 * octaves)]
    ).normal(0, 0.1, 2)
    x, y = np.log2(hparams["learning_rate"]), np.log2(hparams["weight_decay"])
    tilt = 0.2 * drawn[0] * (y - decay)  # moves the optimum of a seed
    return 10 + 0.8 * (x + 8) ** 2 + 1.0 * (y - decay) ** 2 + tilt + drawn[1]


def table_of(plan):
    """The runs of all stages, with made-up errors."""
    from experiments import cells
    from experiments.studies import strength

    table = {}
    for stage in strength.study(plan).stages:
        parts = []
        for group in stage.make(table):
            (task,) = (t for t in plan.tasks if t.name == group.labels["task"])
            (setting,) = (s for s in task.settings if s.name == group.labels["setting"])
            error = np.array(
                [made_up(task.name, setting, hparams) for hparams in group.cells]
            )
            count = len(group.cells)
            part = {n: np.full(count, x, object) for n, x in group.labels.items()}
            for name in group.cells[0]:
                values = np.array([hparams[name] for hparams in group.cells])
                # The table has the shortest decimals of float32.
                if values.dtype == float:
                    values = values.astype(np.float32).astype(str).astype(float)
                part[name] = values
            for on in ("val", "test"):
                part[f"{on}_accuracy"] = 1 - error / 100
                part[f"{on}_loss"] = error / 100
            part["diverged"] = np.zeros(count, bool)
            parts.append(part)
        table = cells.concatenate([table, *parts])
    return table


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A plan with a loss and an accuracy, and its results."""
    from experiments.studies import strength

    factors = (("batch", (0.25, 4)), ("epochs", (0.25, 4)), ("data", (0.25,)))
    tasks = tuple(strength.digits_task(True, noise, 2, factors) for noise in (0.0, 0.4))
    plan = dataclasses.replace(strength.FULL, tasks=tasks, seeds=16, rounds=8)
    folder = tmp_path_factory.mktemp("strength")
    table = table_of(plan)
    simulated.store(folder, strength.study(plan), table)
    return plan, table, folder


def test_exponents_of_made_up_runs(finished):
    from experiments import strengths

    plan, table, _ = finished
    found = strengths.trends(table, list(plan.tasks))
    assert len(found) == 6
    for trend in found:
        power = POWERS[trend.axis]
        for estimate in (trend.decay, trend.timescale):
            assert estimate.low <= power <= estimate.high
            assert estimate.high - estimate.low < 0.3
        assert trend.best_rate.mean == pytest.approx(0, abs=0.1)
        assert trend.verdict == ("grows" if power > 0 else "falls")
        excluded = [r for r, x in strengths.RULES.items() if x[trend.axis] != power]
        assert trend.excluded == excluded


def test_optima_of_made_up_runs(finished):
    from experiments import strengths

    plan, table, _ = finished
    for task in plan.tasks:
        for place in strengths.places(table, task):
            octaves = np.log2(place.setting.factor)
            expected = 2.3 + POWERS.get(place.setting.axis, 0.0) * octaves
            assert place.inside
            assert place.both_inside
            assert place.decay.mean == pytest.approx(expected, abs=0.1)
            assert place.best_rate.mean == pytest.approx(-8, abs=0.1)
            assert place.best_decay.mean == pytest.approx(expected, abs=0.1)


def test_regrets_of_made_up_runs(finished):
    """The bowl has one point of error for each squared octave of λ."""
    from experiments import strengths

    plan, table, _ = finished
    _, task = plan.tasks
    found = {
        (None if r.setting is None else r.setting.name, r.rule): r
        for r in strengths.regrets(table, task)
    }
    assert len(found) == 6 * 3
    # The best λ of the reference is 2^2. With 4 times the epochs it is 2^4.3.
    expected = (2 - 4.3) ** 2 - 0.3**2
    assert found["epochs × 4", "same λ"].cost.mean == pytest.approx(expected, abs=0.2)
    assert found["epochs × 4", "timescale"].cost == found["epochs × 4", "same λ"].cost
    # √steps carries 2^1: it is wrong by 3.3 octaves.
    expected = (1 - 4.3) ** 2 - 0.3**2
    assert found["epochs × 4", "√steps"].cost.mean == pytest.approx(expected, abs=0.3)
    assert found["epochs × 4", "√steps"].gain.high < 0
    assert found["data × 0.25", "timescale"].cost.mean == pytest.approx(0, abs=0.05)
    assert found["data × 0.25", "timescale"].gain.low > 0
    for rule in strengths.RULES:
        costs = [found[s.name, rule].cost.mean for s in task.settings[1:]]
        assert found[None, rule].cost.mean == pytest.approx(np.mean(costs))
        gain = found[None, "same λ"].cost.mean - np.mean(costs)
        assert found[None, rule].gain.mean == pytest.approx(gain)


def test_the_part_that_scores_is_the_test_part(finished):
    from experiments import strengths

    plan, table, _ = finished
    _, task = plan.tasks
    worse = table | {"test_accuracy": 2 * table["val_accuracy"] - 1}  # twice the error
    for before, now in zip(
        strengths.regrets(table, task), strengths.regrets(worse, task), strict=True
    ):
        assert now.cost.mean == pytest.approx(2 * before.cost.mean)


def test_a_strength_between_the_points_of_the_grid_runs_once():
    """√steps carries λ by half an octave if the number of epochs doubles."""
    from experiments import strengths
    from experiments.studies import strength

    task = strength.digits_task(True, 0.4, 2, (("epochs", (2,)),))
    plan = dataclasses.replace(strength.FULL, tasks=(task,), seeds=2, rounds=8)
    table = table_of(plan)
    losses = strengths.losses_of(table, task, task.settings[1])
    assert {len(by_seed) for by_seed in losses.values()} == {1}
    assert losses.keys() - task.grid.regular(losses).keys() == {(-8.0, 1.5)}
    (root,) = (
        r
        for r in strengths.regrets(table, task)
        if r.rule == strengths.ROOT and r.setting is not None
    )
    # The best λ is 2^3.3. On the grid it is 2^3; the rule carries 2^1.5.
    expected = (1.5 - 3.3) ** 2 - (3 - 3.3) ** 2
    assert root.cost.mean == pytest.approx(expected, abs=0.2)


@pytest.mark.filterwarnings("error")
def test_the_report_says_what_the_runs_say(finished):
    from experiments.studies import strength

    plan, table, folder = finished
    verdict = strength.write_report(folder)
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert verdict.removeprefix("Verdict. ") in report
    for figure in ("exponents", "curves", "regret"):
        assert (folder / f"{figure}.png").stat().st_size > 8_000
        assert f"({figure}.png)" in report
    assert "Every optimum is bracketed." in verdict
    assert verdict.count("grows (excludes ") == 4
    assert verdict.count("falls (excludes √steps and same λ)") == 2
    assert "Mean regret in nats: " in verdict
    assert "Mean regret in points: " in verdict
    claims = strength.claims(folder)
    name = "digits, LayerNorm, wrong labels"
    assert claims[f"{name}, epochs: λ*"] == "grows"
    for axis, rule in (("epochs", "√steps"), ("batch", "timescale")):
        found = claims[f"{name}, {axis}: exponent of {rule}"]
        assert found == "outside the interval"
    found = claims[f"{name}, batch: exponent of √steps"]
    assert found == "inside the interval"
    assert claims[f"{name}: √steps"] == "worse than same λ"
    assert len(claims) == 2 * (3 * 4 + 2)


def test_few_seeds_are_no_finding_and_open_optima_are_named(tmp_path):
    from experiments.studies import strength

    factors = (("epochs", (4,)),)
    task = strength.digits_task(True, 0.4, 2, factors)
    grid = task.grid._replace(highest=(-2.0, 3.0))
    plan = dataclasses.replace(
        strength.SMOKE, tasks=(task._replace(grid=grid),), seeds=4
    )
    simulated.store(tmp_path, strength.study(plan), table_of(plan))
    verdict = strength.write_report(tmp_path)
    assert "no finding" in verdict
    assert "λ is not bracketed at one learning rate: " in verdict
    assert f"{task.name} (epochs × 4)" in verdict
    assert "epochs: –, not bracketed" in verdict
    assert "[" not in verdict
