"""The protocol finds the better arm in spite of lucky points, gaps, edges and ties.

No network is trained here. A simulated study has a true error for every point and noise
for every seed, so the better arm is known.
"""

import json
import math

import numpy as np
import pytest


pytestmark = pytest.mark.needs_extras
EXAMPLES = 300  # of validation
TESTED = 600


def named(name, first, last, step=1, low=None, high=None):
    """An axis of powers of two that may grow by four steps, or to the bounds."""
    from experiments.search import Axis, powers

    low = first - 4 if low is None else low
    high = last + 4 if high is None else high
    return Axis(name, powers(first, last, step), 2.0**low, 2.0**high)


def entry(name, axes, **fixed):
    from experiments.protocol import Entry

    return Entry(name, {"arm": name}, None, tuple(axes), fixed)


def plan_of(*entries, **numbers):
    from experiments.protocol import difference, ProtocolPlan

    names = [each.name for each in entries]
    pairs = [difference(a, names[0], a, names[0]) for a in names[1:]]
    return ProtocolPlan(entries=tuple(entries), contrasts=tuple(pairs), **numbers)


def run(plan, truth, rng, examples=EXAMPLES):
    """Simulate a study: `truth(arm, point, seeds, rng)` gives errors in percent."""
    from experiments import cells, protocol

    table = {}
    common = rng.normal(0, 0.7, 100)  # the effect of a seed on all arms
    for stage in protocol.stages(plan):
        made = [_rows(b, truth, common, rng, examples) for b in stage.make(table)]
        table = cells.concatenate([table, *made])
    return table


def _rows(group, truth, common, rng, examples):
    names = list(group.cells[0])
    rows = {n: np.array([hparams[n] for hparams in group.cells]) for n in names}
    labels = {n: np.full(len(rows["seed"]), x, object) for n, x in group.labels.items()}
    by_point = {}
    for place, hparams in enumerate(group.cells):
        point = tuple(v for n, v in hparams.items() if n != "seed")
        by_point.setdefault(point, []).append(place)
    right = np.empty((len(rows["seed"]), 2))
    for point, places in by_point.items():
        seeds = rows["seed"][places]
        errors = truth(group.labels["arm"], point, len(places), rng) + common[seeds]
        share = np.clip(1 - errors / 100, 0, 1)
        right[places, 0] = rng.binomial(examples, share) / examples
        right[places, 1] = rng.binomial(TESTED, share) / TESTED
    return {
        **labels,
        **rows,
        "val_accuracy": right[:, 0].astype(np.float32),
        "val_count": np.full(len(right), examples),
        "test_accuracy": right[:, 1].astype(np.float32),
        "diverged": np.zeros(len(right), bool),
    }


def chosen(plan, table, name):
    from experiments import protocol

    (found,) = (each for each in plan.entries if each.name == name)
    return protocol.ranked_by_validation(plan, found, table)[0]


def smooth(at, error, width=1.5):
    """A valley; `at` are the exponents of two of its best point."""

    def truth(point):
        far = sum((math.log2(x) - a) ** 2 for x, a in zip(point, at, strict=True))
        return error + min(far / width, 40)

    return truth


# --- A lucky point ----------------------------------------------------------------


def unstable(arm, point, count, rng):
    """Arm b is better by 1.4 points, but some of its points only look better.

    Beyond its ridge every second run fails. Three good runs in a row are common there,
    and they are better than any run elsewhere. So a published verdict once had the
    wrong sign.
    """
    decay, rate = map(math.log2, point)
    error = 7.6 if arm == "a" else 6.2
    if arm == "b" and decay + rate in (3, 4) and abs(decay - rate) <= 4:
        good = rng.random(count) < 0.5
        return np.where(good, rng.normal(5.2, 0.5, count), rng.normal(14, 2, count))
    return smooth((0, 0), error)(point) + rng.normal(0, 1, count)


def test_the_better_arm_wins_despite_lucky_points():
    axes = [named("weight_decay", -3, 3), named("learning_rate", -3, 3)]
    plan = plan_of(entry("a", axes), entry("b", axes), rounds=1)
    better, better_without = 0, 0
    studies = 40
    for number in range(studies):
        rng = np.random.default_rng(number)
        table = run(plan, unstable, rng)
        tests = [test_score(plan, table, name) for name in "ab"]
        better += tests[1] > tests[0]
        better_without += is_better_without_validation(plan, table, unstable, rng)
    assert better >= 0.95 * studies
    assert better_without < 0.8 * studies


def test_score(plan, table, name):
    from experiments import outcomes

    (found,) = (each for each in plan.entries if each.name == name)
    return outcomes.final_scores(plan, found, table).mean()


test_score.__test__ = False


def is_better_without_validation(plan, table, truth, rng):
    """A simpler protocol: the best mean of three seeds is tested on fresh seeds."""
    from experiments import protocol

    scores = []
    for each in plan.entries:
        best = protocol.ranked_by_tuning(plan, each, table)[0]
        scores.append(truth(each.name, best, 20, rng).mean())
    return scores[1] < scores[0]


def test_a_lucky_choice_is_reported():
    from experiments import outcomes

    rng = np.random.default_rng(1)
    axes = [named("learning_rate", -2, 2)]
    plan = plan_of(entry("a", axes), entry("b", axes), rounds=1, candidates=1)
    table = run(plan, lambda arm, p, n, rng: smooth((0,), 8)(p) + np.zeros(n), rng)
    found = outcomes.outcomes(plan, table)
    assert not any(each.lucky for each in found.values())
    # The same table, but the choice of b had an impossibly good score in tuning.
    lucky = (table["arm"] == "b") & (table["stage"] == "tuning")
    lucky &= table["learning_rate"] == chosen(plan, table, "b")[0]
    table["val_accuracy"] = np.where(lucky, 0.97, table["val_accuracy"])
    found = outcomes.outcomes(plan, table)
    assert [found[name].lucky for name in "ab"] == [False, True]
    (only,) = outcomes.compare_contrasts(plan, table, found)
    assert only.lucky
    assert only.verdict.endswith("(a chosen point was lucky)")
    turned = plan_of(*plan.entries[::-1], rounds=1, candidates=1)
    (only,) = outcomes.compare_contrasts(turned, table)
    assert only.lucky  # for either entry of the contrast


def test_the_noise_of_the_earlier_seeds_counts_too():
    from experiments.outcomes import _is_lucky

    final = np.tile([-1.0, 1.0], 10)
    error = np.std(final, ddof=1) * np.sqrt(1 / 3 + 1 / 20)
    assert not _is_lucky(np.full(3, 1.9 * error), final)
    assert _is_lucky(np.full(3, 2.1 * error), final)


def test_the_seeds_of_the_stages_follow_the_first_seed():
    from experiments import outcomes
    from experiments.engine.describe import describe

    plan = plan_of(entry("a", [named("learning_rate", -2, 2)]), first_seed=40)
    stages = ("tuning", "screening", "validation", "final")
    assert [plan.seeds(stage) for stage in stages] == [
        range(40, 43),
        range(43, 46),
        range(46, 56),
        range(56, 76),
    ]
    read = outcomes.plan_from_manifest(describe(plan))
    assert read.first_seed == 40
    other = outcomes.plan_from_manifest(describe(plan_of(*plan.entries)))
    assert other.first_seed == 0


# --- Gaps and edges ---------------------------------------------------------------


def test_an_optimum_in_a_gap_of_the_coarse_grid_is_found():
    # A ridge one step wide, which lies between the points of a grid in steps of 4.
    def truth(arm, point, count, rng):
        decay, rate = map(math.log2, point)
        ridge = 6 * math.exp(-((decay + 5) ** 2)) * math.exp(-((rate + 3) ** 2) / 8)
        return 51 - ridge - 2 * math.exp(-(rate**2) / 50) + rng.normal(0, 0.8, count)

    axes = [named("weight_decay", -12, -2, 2), named("learning_rate", -11, -5, 2)]
    plan = plan_of(entry("l2", axes), rounds=4)
    for number in range(10):
        table = run(plan, truth, np.random.default_rng(number), examples=2000)
        decay, rate = chosen(plan, table, "l2")
        assert math.log2(decay) == -5
        assert -5 <= math.log2(rate) <= -1  # beyond the coarse grid's last value
    tuned = [p for p in coarse_points(plan) if math.log2(p[0]) == -5]
    assert tuned == []


def coarse_points(plan):
    from experiments import search

    return search.coarse_grid(plan.entries[0].axes)


@pytest.mark.parametrize("side", [-1, 1])
def test_the_grid_grows_to_where_the_optimum_is(side):
    truth = smooth((side * 6, side * 6), 5, width=1)
    axes = [named("weight_decay", -2, 2, low=-9, high=9)]
    axes += [named("learning_rate", -2, 2, low=-9, high=9)]
    plan = plan_of(entry("a", axes), rounds=6)
    rng = np.random.default_rng(0)
    table = run(
        plan, lambda arm, p, n, rng: truth(p) + rng.normal(0, 0.3, n), rng, 20_000
    )
    assert [math.log2(x) for x in chosen(plan, table, "a")] == [side * 6] * 2
    assert outcome(plan, table, "a").open == []


def test_a_side_at_the_bound_of_the_grid_is_open():
    axes = [named("weight_decay", -2, 2, high=3), named("learning_rate", -2, 2)]
    plan = plan_of(entry("a", axes), rounds=4)
    truth = smooth((6, 0), 5, width=1)
    rng = np.random.default_rng(0)
    table = run(
        plan, lambda arm, p, n, rng: truth(p) + rng.normal(0, 0.3, n), rng, 20_000
    )
    assert math.log2(chosen(plan, table, "a")[0]) == 3
    assert outcome(plan, table, "a").open == ["weight_decay above"]
    assert table["weight_decay"].max() == 2.0**3


def outcome(plan, table, name):
    from experiments import outcomes

    return outcomes.outcomes(plan, table)[name]


def even(points):
    """The same scores for every point, on three seeds."""
    return {point: np.array([60.0, 61.0, 62.0]) for point in points}


def test_a_verdict_says_that_a_choice_is_not_bracketed():
    from experiments import outcomes

    rng = np.random.default_rng(1)
    axes = [named("learning_rate", -2, 2, low=-2, high=2)]
    plan = plan_of(entry("a", axes), entry("b", axes), rounds=1)
    truths = {"a": smooth((0,), 6, width=0.2), "b": smooth((5,), 6, width=2)}
    table = run(plan, lambda arm, p, n, rng: truths[arm](p) + np.zeros(n), rng)
    (only,) = outcomes.compare_contrasts(plan, table)
    assert only.sign == -1
    assert only.verdict == "a clearly better (a choice is not bracketed)"


def test_a_point_next_to_a_gap_is_not_bracketed():
    from experiments.search import open_sides

    axes = [named("weight_decay", -4, 4), named("learning_rate", -4, 4)]
    tried = {(2.0**a, 2.0**b) for a in range(-4, 5) for b in range(-4, 5)}
    assert open_sides((1.0, 1.0), even(tried), axes, {}) == []
    for step in (1, 2):
        gap = even(tried - {(2.0**step, 1.0)})
        assert open_sides((1.0, 1.0), gap, axes, {}) == ["weight_decay above"]
        gap = even(tried - {(1.0, 2.0**-step)})
        assert open_sides((1.0, 1.0), gap, axes, {}) == ["learning_rate below"]
    assert open_sides((8.0, 1.0), even(tried), axes, {}) == ["weight_decay above"]
    assert open_sides((0.0, 1.0), even({(0.0, y) for _, y in tried}), axes, {}) == []


@pytest.mark.parametrize("step", [-2, -1, 1, 2])
def test_a_point_next_to_a_better_one_is_not_bracketed(step):
    from experiments.search import open_sides, standard_error

    axes = [named("learning_rate", -3, 3)]
    scores = even({(2.0**k,) for k in range(-3, 4)})
    better, side = (2.0**step,), "below" if step < 0 else "above"
    scores[better] = scores[better] + 0.9 * standard_error(scores)
    assert open_sides((1.0,), scores, axes, {}) == []  # within the noise
    scores[better] = scores[better] + standard_error(scores)
    assert open_sides((1.0,), scores, axes, {}) == [f"learning_rate {side}"]
    # On more seeds it is not better.
    decided = {(1.0,): np.ones(9), better: np.zeros(9)}
    assert open_sides((1.0,), scores, axes, decided) == []
    decided[better] = np.full(9, 2.0)
    assert open_sides((1.0,), scores, axes, decided) == [f"learning_rate {side}"]


def test_a_neighbour_that_is_as_good_on_more_seeds_is_not_better():
    from experiments.search import open_sides

    axes = [named("learning_rate", -3, 3)]
    scores = even({(2.0**k,) for k in range(-3, 4)})
    scores[(2.0,)] = scores[(2.0,)] + 10  # on the seeds of tuning
    assert open_sides((1.0,), scores, axes, {}) == ["learning_rate above"]
    equal = {(1.0,): np.array([1.0, 3.0]), (2.0,): np.array([2.0, 2.0])}
    assert open_sides((1.0,), scores, axes, equal) == []


def test_steps_of_ten_reach_the_given_values():
    from experiments.search import Axis, open_sides, points_to_add

    axis = Axis("learning_rate", (0.001, 0.01, 0.1, 1.0), 1e-6, 1e3, ratio=10.0)
    scores = even({(x,) for x in axis.values})
    assert open_sides((0.1,), scores, [axis], {}) == ["learning_rate above"]
    added = points_to_add({(0.1,): np.ones(3)}, [axis], 9)
    assert {(0.01,), (1.0,), (0.001,)} <= set(added)
    assert len({round(math.log10(x), 6) for (x,) in added}) == len(added)


def test_zero_is_the_neighbour_below_the_smallest_value():
    from experiments.search import Axis, open_sides, points_to_add

    axes = [Axis("weight_decay", (0.0, 1.0, 2.0, 4.0), low=1.0, high=8.0)]
    tried = {(0.0,), (1.0,), (2.0,), (4.0,)}
    assert open_sides((1.0,), even(tried), axes, {}) == []
    assert open_sides((2.0,), even(tried), axes, {}) == ["weight_decay above"]
    without = even(tried - {(0.0,)})
    assert open_sides((1.0,), without, axes, {}) == ["weight_decay below"]
    assert open_sides((0.0,), even(tried), axes, {}) == []
    scores = {(1.0,): np.ones(3)}
    assert points_to_add(scores, axes, 9) == [(0.0,), (2.0,), (4.0,)]
    axes = [axes[0]._replace(values=(1.0, 2.0, 4.0))]
    assert points_to_add(scores, axes, 9) == [(2.0,), (4.0,)]


def test_gaps_on_lines_through_the_best_point_come_before_its_neighbours():
    from experiments.search import points_to_add

    axes = [named("weight_decay", -8, 8, 2), named("learning_rate", 0, 0)]
    scores = {(2.0**k, 1.0): np.full(3, 50.0 - abs(k)) for k in range(-8, 9, 2)}
    added = points_to_add(scores, axes, 100)
    sides = [(2.0**a, 2.0**b) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    assert added[:4] == sides
    gaps = {(2.0**k, 1.0) for k in range(-7, 8, 2)}
    place = max(added.index(point) for point in gaps)
    diagonal = added.index((2.0, 2.0))
    assert place < diagonal


def test_the_standard_error_is_that_of_the_best_ten():
    from experiments.search import standard_error

    scores = {(float(k),): np.array([-k - 1.0, -k, -k + 1.0]) for k in range(10)}
    assert standard_error(scores) == pytest.approx((2 / 3) ** 0.5)
    wild = scores | {(99.0,): np.array([-1000.0, 0.0, 500.0])}
    assert standard_error(wild) == pytest.approx((2 / 3) ** 0.5)
    scores[(9.0,)] = np.array([-19.0, -9.0, 1.0])  # the tenth
    assert standard_error(scores) == pytest.approx((2 / 3 * (9 + 100) / 10) ** 0.5)
    assert standard_error({(1.0,): np.ones(1)}) == 0


def test_points_within_the_noise_of_the_best_are_bracketed_too():
    from experiments import search

    axes = [named("learning_rate", -8, 8, 4)]
    scores = {(2.0**k,): np.array([50.0, 60.0, 70.0]) for k in (-8, -4, 4, 8)}
    scores |= {(1.0,): np.array([51.0, 60.0, 70.0])}
    added = search.points_to_add(scores, axes, 100)
    assert added[:4] == [(0.5,), (2.0,), (0.25,), (4.0,)]
    # Then the sides of the next point within the noise, before the gaps.
    assert added[4:6] == [(2.0**-9,), (2.0**-7,)]
    assert {(2.0**k,) for k in (3, 5, 2, 6, -5, -3)} <= set(added)
    sure = {p: x if p == (1.0,) else x - 40 for p, x in scores.items()}
    assert search.points_to_add(sure, axes, 4) == added[:4]


def test_every_entry_gets_the_same_number_of_runs_and_every_stage_new_seeds():
    axes = [named("weight_decay", -2, 2, 2), named("learning_rate", -2, 2, 2)]
    plan = plan_of(entry("a", axes), entry("b", axes), rounds=3, added=5)
    truths = {"a": smooth((0, 0), 5), "b": smooth((3, 3), 5)}

    def truth(arm, point, count, rng):
        return truths[arm](point) + rng.normal(0, 0.5, count)

    table = run(plan, truth, np.random.default_rng(0))
    seeds = {}
    for stage in ("tuning", "screening", "validation", "final"):
        mine = {n: x[table["stage"] == stage] for n, x in table.items()}
        counts = [int(np.sum(mine["arm"] == arm)) for arm in "ab"]
        assert counts[0] == counts[1] > 0
        seeds[stage] = set(mine["seed"].tolist())
        runs = list(zip(*(mine[n].tolist() for n in RUN), strict=True))
        assert len(set(runs)) == len(runs)
    assert [len(each) for each in seeds.values()] == [3, 3, 10, 20]
    assert len(set.union(*seeds.values())) == 36
    assert outcome(plan, table, "a").tried == 3 * 3 + 3 * 5
    assert outcome(plan, table, "a").runs == (9 + 15) * 3 + 16 * 3 + 8 * 10


RUN = ("arm", "weight_decay", "learning_rate", "seed")


def test_a_coarse_grid_that_could_step_over_an_optimum_is_refused():
    from experiments.search import Axis, coarse_grid

    with pytest.raises(ValueError, match="1 and 8 are more than two steps of 2 apart"):
        coarse_grid([Axis("learning_rate", (0.0, 1.0, 8.0))])
    assert coarse_grid([Axis("b2", (0.5, 0.9, 9.0), ratio=None)]) == [
        (0.5,),
        (0.9,),
        (9.0,),
    ]


def test_screening_drops_a_point_that_was_lucky_on_three_seeds():
    from experiments import protocol

    axes = [named("learning_rate", -3, 3)]
    plan = plan_of(entry("a", axes), rounds=0, screened=4, candidates=1)
    asked = []

    def truth(arm, point, count, rng):
        asked.append(point)
        if point == (8.0,):  # lucky the first time
            return np.full(count, 1.0 if asked.count(point) == 1 else 30.0)
        return smooth((0,), 10, width=0.1)(point) + np.zeros(count)

    table = run(plan, truth, np.random.default_rng(0))
    (each,) = plan.entries
    assert protocol.ranked_by_tuning(plan, each, table)[0] == (8.0,)
    assert asked.count((8.0,)) == 2  # in tuning and screening, and not in validation
    assert protocol.ranked_by_validation(plan, each, table)[0] == (1.0,)


def test_candidates_are_the_best_in_tuning_and_screening_together():
    from experiments import protocol

    each = entry("a", [named("weight_decay", 0, 1)])
    rows = [("tuning", 1.0, 0.9), ("tuning", 2.0, 0.5)]
    rows += [("screening", 1.0, 0.6), ("screening", 2.0, 0.7)]
    stages, decays, shares = zip(*rows, strict=True)
    table = {
        "stage": np.array(stages, object),
        "arm": np.full(4, "a", object),
        "weight_decay": np.array(decays),
        "seed": np.array([0, 0, 3, 3]),
        "val_accuracy": np.array(shares),
        "val_count": np.full(4, EXAMPLES),
    }
    assert protocol.ranked_by_screening(plan_of(each), each, table) == [(1.0,), (2.0,)]


# --- Ties -------------------------------------------------------------------------


def tied(*shares):
    """One axis: the validation accuracies of three seeds for each of its values."""
    count = len(shares) * 3
    return {
        "stage": np.full(count, "tuning", object),
        "arm": np.full(count, "a", object),
        "weight_decay": np.repeat(2.0 ** np.arange(len(shares)), 3),
        "seed": np.tile(np.arange(3), len(shares)),
        "val_accuracy": np.ravel(shares),
        "val_count": np.full(count, EXAMPLES),
    }


def test_equal_counts_are_ties_though_their_float32_means_differ():
    from experiments import protocol

    # Both have 841 right answers of 900, as in a real table.
    one, other = [0.93, 0.9366667, 0.9366667], [0.94, 0.9333333, 0.93]
    table = tied(other, one)
    means = [np.mean(each).round(9) for each in (other, one)]
    assert means[0] < means[1]  # so the means would choose
    each = entry("a", [named("weight_decay", 0, 1)])
    plan = plan_of(each)
    assert protocol.ranked_by_tuning(plan, each, table) == [(1.0,), (2.0,)]
    assert protocol.ranked_by_tuning(plan, each, tied(one, other)) == [(1.0,), (2.0,)]
    more = [*one[:2], 282 / EXAMPLES]
    assert protocol.ranked_by_tuning(plan, each, tied(other, more)) == [(2.0,), (1.0,)]


def test_a_tie_goes_to_the_smaller_value_axis_by_axis():
    from experiments.search import rank

    same = {(a, b): np.ones(3) for a in (2.0, 1.0) for b in (8.0, 4.0)}
    assert rank(same) == [(1.0, 4.0), (1.0, 8.0), (2.0, 4.0), (2.0, 8.0)]


# --- Any axes, any measure --------------------------------------------------------


def test_any_hyper_parameter_can_be_an_axis():
    from experiments.search import Axis

    b2 = Axis("b2", (0.9, 0.99, 0.999), ratio=None)
    plan = plan_of(entry("a", [named("learning_rate", -1, 1), b2], momentum=0.9))

    def truth(arm, point, count, rng):
        momentum, rate, b2 = point
        assert momentum == 0.9
        return 5 + abs(math.log2(rate)) + 100 * abs(b2 - 0.99) + np.zeros(count)

    table = run(plan, truth, np.random.default_rng(1))
    assert chosen(plan, table, "a") == (1.0, 0.99)
    assert outcome(plan, table, "a").open == []
    assert set(table["b2"]) == {0.9, 0.99, 0.999}


def test_the_smallest_loss_wins():
    from experiments import outcomes, protocol

    each = entry("a", [named("learning_rate", -2, 2)])
    plan = plan_of(each, each._replace(name="b", labels={"arm": "b"}), rounds=0)
    table = run(plan, lambda arm, p, n, rng: np.full(n, 5.0), np.random.default_rng(0))
    loss = 2 + np.log2(table["learning_rate"]) ** 2 + (table["arm"] == "b")
    table |= {"val_loss": loss, "test_loss": loss + 0.1 * np.sin(table["seed"])}
    plan = plan_of(*plan.entries, rounds=0, measure=protocol.LOSS)
    # The points of validation and final runs were chosen by accuracy.
    assert protocol.ranked_by_tuning(plan, each, table)[0] == (1.0,)
    assert outcomes.final_scores(plan, each, table).max() < 0


# --- Contrasts --------------------------------------------------------------------


@pytest.fixture
def two():
    """A study of two arms that differ by two points, and its table."""
    axes = [named("learning_rate", -2, 2)]
    plan = plan_of(entry("a", axes), entry("b", axes), rounds=1)
    truths = {"a": smooth((0,), 8, width=0.2), "b": smooth((0,), 6, width=0.2)}

    def truth(arm, point, count, rng):
        return truths[arm](point) + rng.normal(0, 0.5, count)

    return plan, run(plan, truth, np.random.default_rng(0))


def test_a_contrast_is_paired_by_seed_and_names_the_better_arm(two):
    from experiments import outcomes

    plan, table = two
    (only,) = outcomes.compare_contrasts(plan, table)
    a, b = (
        100
        * table["test_accuracy"][(table["stage"] == "final") & (table["arm"] == arm)]
        for arm in "ab"
    )
    assert only.difference.mean == pytest.approx((b - a).mean(), rel=1e-6)
    assert only.sign == 1
    assert only.verdict == "b clearly better"
    turned = {**table, "test_accuracy": 1 - table["test_accuracy"]}
    (turned_only,) = outcomes.compare_contrasts(plan, turned)
    assert (turned_only.sign, turned_only.verdict) == (-1, "a clearly better")


def test_test_scores_have_no_effect_on_the_choice(two):
    from experiments import protocol

    plan, table = two
    noise = np.random.default_rng(5).permutation(table["test_accuracy"])
    for each in plan.entries:
        same = protocol.ranked_by_validation(
            plan, each, {**table, "test_accuracy": noise}
        )
        assert same == protocol.ranked_by_validation(plan, each, table)
    final = table["stage"] == "final"
    other = {**table, "val_accuracy": np.where(final, 0.1, table["val_accuracy"])}
    for each in plan.entries:
        assert protocol.ranked_by_validation(
            plan, each, other
        ) == protocol.ranked_by_validation(plan, each, table)


def test_the_interval_with_the_choice_is_wide_if_the_choice_is_uncertain(two):
    from experiments import outcomes

    plan, table = two
    (given,) = outcomes.compare_contrasts(plan, table)
    sure = given.with_choice
    assert sure[0] == pytest.approx(given.difference.low, abs=0.4)
    assert sure[0] <= given.difference.low < given.difference.high <= sure[1]
    # A second point of b is as good in validation, but far worse on test.
    best = chosen(plan, table, "b")
    points = sorted(protocol_points(plan, table, "b"))
    other = next(point for point in points if point > best)
    at = (table["arm"] == "b") & (table["stage"] == "validation")
    first, second = (at & (table["learning_rate"] == p[0]) for p in (best, other))
    right = table["val_accuracy"].copy()
    right[second] = right[first][::-1]
    test = table["test_accuracy"].copy()
    test[second] = test[first] - 0.2
    unsure = {**table, "val_accuracy": right, "test_accuracy": test}
    (now,) = outcomes.compare_contrasts(plan, unsure)
    low, high = now.with_choice
    assert low < -15
    assert high == pytest.approx(sure[1], abs=0.5)
    assert now.difference == given.difference
    assert now.sign == 0
    assert now.verdict.startswith("unclear: depends on the choice")


def protocol_points(plan, table, name):
    from experiments import protocol

    (found,) = (each for each in plan.entries if each.name == name)
    return protocol.ranked_by_validation(plan, found, table)


def test_the_interval_with_the_choice_has_95_percent(two):
    from experiments import outcomes
    from experiments.statistics import Estimate

    plan, table = two
    (contrast,) = plan.contrasts
    scores = {e.name: outcomes.final_scores(plan, e, table) for e in plan.entries}
    values = outcomes.weighted(contrast, scores)
    empty = Estimate(0.0, math.inf, -math.inf, 1.0)  # the interval alone
    low, high = outcomes.with_choice(plan, table, contrast, empty)
    error = np.std(values) / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_a_choice_does_not_gain_on_the_seeds_that_chose_it():
    from experiments import outcomes

    each = entry("a", [named("learning_rate", 0, 1)])
    plan = plan_of(each)
    # Two equal points; the scores of one of them change from seed to seed.
    shares = {1.0: np.full(10, 0.5), 2.0: np.tile([0.3, 0.7], 5)}
    rows = [("validation", x, s, shares[x][s]) for x in shares for s in range(10)]
    rows += [("final", 1.0, seed, 0.5) for seed in range(20, 40)]
    stages, rates, seeds, accuracy = zip(*rows, strict=True)
    table = {
        "stage": np.array(stages, object),
        "arm": np.full(len(rows), "a", object),
        "learning_rate": np.array(rates),
        "seed": np.array(seeds),
        "val_accuracy": np.array(accuracy),
        "val_count": np.full(len(rows), EXAMPLES),
        "test_accuracy": np.array(accuracy),
    }
    found = outcomes._resampled(plan, each, table, *outcomes._draws(4999, 10, 20))
    # Seeds that chose the other point had its good scores; the seeds that were not
    # drawn have more of the bad ones.
    assert found.mean() < 49.5


def test_holm_is_over_all_contrasts_of_the_study(two):
    import dataclasses

    from experiments import outcomes

    plan, table = two
    (alone,) = outcomes.compare_contrasts(plan, table)
    many = dataclasses.replace(plan, contrasts=plan.contrasts * 7)
    together = outcomes.compare_contrasts(many, table)
    assert together[0].p_holm == pytest.approx(7 * alone.p_holm)


def test_a_slope_over_all_settings_is_a_contrast(two):
    import dataclasses

    from experiments import outcomes
    from experiments.protocol import Contrast

    plan, table = two
    terms = (("b", 0.5), ("a", -2.0))
    slope = Contrast("slope", terms, "the gap grows", "the gap shrinks")
    plan = dataclasses.replace(plan, contrasts=(slope,))
    (found,) = outcomes.compare_contrasts(plan, table)
    scores = {e.name: outcomes.final_scores(plan, e, table) for e in plan.entries}
    assert found.difference.mean == pytest.approx(
        (0.5 * scores["b"] - 2 * scores["a"]).mean()
    )
    assert found.verdict == "the gap shrinks"


def test_seeds_that_choose_do_not_score():
    from experiments.outcomes import _draws

    choosing, scoring, final = _draws(4999, 10, 20)
    assert choosing.shape == scoring.shape
    assert final.max() == 19
    both = [set(a) & set(b) for a, b in zip(choosing, scoring, strict=True)]
    assert sum(map(bool, both)) < 10  # of 4999, where all ten seeds were drawn


def test_a_difference_can_be_clear_with_the_minimum_number_of_seeds():
    from experiments.statistics import estimate, holm, LEVEL, min_seeds

    for count in (1, 9, 27, 33, 200):
        seeds = min_seeds(count)
        smallest = estimate(np.linspace(1, 1.1, seeds)).p
        assert holm([smallest] * count)[0] < LEVEL
        if seeds > 10:
            assert holm([2.0 ** (2 - seeds)] * count)[0] >= LEVEL


# --- Plans and manifests ----------------------------------------------------------


def test_entries_with_equal_columns_are_refused():
    from experiments.protocol import stages

    axes = [named("learning_rate", -2, 2)]
    one, other = entry("a", axes), entry("b", axes)
    stages(plan_of(one, other))
    same = other._replace(labels=one.labels)
    with pytest.raises(ValueError, match="runs of 'a' and 'b' have the same labels"):
        stages(plan_of(one, same))
    stages(plan_of(one._replace(fixed={"s": 0.0}), same._replace(fixed={"s": 1.0})))
    with pytest.raises(ValueError, match="'a' and 'b' have the same labels"):
        stages(plan_of(one, same._replace(fixed={"s": 1.0})))
    with pytest.raises(ValueError, match="the name 'a' twice"):
        stages(plan_of(one, one))


@pytest.mark.parametrize("name", ["demo", "why", "tuning"])
@pytest.mark.parametrize("size", ["FULL", "SMOKE"])
def test_a_report_has_the_plan_from_the_manifest(name, size):
    from experiments import outcomes
    from experiments.engine.describe import describe
    from experiments.study_files import study_module

    plan = getattr(study_module(name), size)
    again = outcomes.plan_from_manifest(json.loads(json.dumps(describe(plan))))
    assert again.contrasts == plan.contrasts
    assert again.measure == plan.measure
    for ours, theirs in zip(again.entries, plan.entries, strict=True):
        assert ours._replace(config=None) == theirs._replace(config=None)
    names = [each.name for each in plan.entries]
    assert len(set(names)) == len(names)
    assert {n for c in plan.contrasts for n, _ in c.terms} <= set(names)
    for stage in ("tuning", "screening", "validation", "final"):
        assert again.seeds(stage) == plan.seeds(stage)


def test_values_are_ordered_by_seed():
    from experiments import protocol

    table = tied((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    order = [5, 1, 3, 2, 0, 4]
    shuffled = {name: column[order] for name, column in table.items()}
    each = entry("a", [named("weight_decay", 0, 1)])
    found = protocol.values(each, shuffled, "tuning", "val_accuracy")
    assert {point: x.tolist() for point, x in found.items()} == {
        (1.0,): [0.1, 0.2, 0.3],
        (2.0,): [0.4, 0.5, 0.6],
    }
