"""Reports: words follow numbers, choices validation, figures are of any grid."""

import dataclasses
import functools
import json
import re

import numpy as np
import pytest
import simulated


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("the experiments run under JAX's defaults"),
]
INF = float("inf")
EVEN = {"adam": 0.7, "adam_l2": 0.8, "adamw": 0.8, "adam_independent": 0.8}
AHEAD = EVEN | {"adamw": 0.85}
BEHIND = EVEN | {"adamw": 0.75}


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    from experiments import outcomes, statistics

    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    monkeypatch.setattr(outcomes, "RESAMPLES", 499)


def full_size(plan):
    """A smoke plan with as many seeds as give intervals, bracketed."""
    return dataclasses.replace(
        plan,
        tuning_seeds=2,
        rounds=3,
        added=12,
        candidates=3,
        validation_seeds=10,
        final_seeds=10,
    )


@functools.cache
def demo():
    from experiments.studies import demo

    return demo.study(full_size(demo.plan_of(demo.TASKS[:2])))


def results_of(tmp_path, study, score):
    from experiments.reports.results import read_results

    return read_results(
        simulated.store(tmp_path, study, simulated.table_of(study, score))
    )


# --- Numbers in words -------------------------------------------------------------


def test_an_interval_is_rounded_outwards():
    from experiments.reports.markdown import bounds

    assert bounds(-0.241, 0.231) == "[-0.25, 0.24]"
    assert bounds(0.249, 0.251, 1, sign=True) == "[+0.2, +0.3]"
    assert bounds(-0.3, 0.1 + 0.2) == "[-0.30, 0.30]"  # which are exact in decimals
    assert bounds(-0.001, 0.0) == "[-0.01, 0.00]"
    assert bounds(0.0, INF) == bounds(-INF, 0.0) == ""


def test_a_mean_without_an_interval_stands_alone():
    from experiments.reports.markdown import estimate
    from experiments.statistics import Estimate

    assert estimate(Estimate(1.234, 1.0, 2.0, 0.5)) == "1.23 [1.00, 2.00]"
    assert estimate(Estimate(-0.001, -INF, INF, 1.0), sign=True) == "+0.00"
    assert estimate(Estimate(float("nan"), -INF, INF, 1.0)) == "–"


def test_powers_of_two_are_written_as_such():
    from experiments.reports.markdown import number

    assert [number(x) for x in (2.0**-13, 1.0, 1024.0)] == ["2⁻¹³", "2⁰", "2¹⁰"]
    assert [number(x) for x in (0.0, 0.003, 3.0)] == ["0", "0.003", "3"]


def test_places_with_the_same_words_are_put_together():
    from experiments.reports.markdown import group

    words = [("a", "x better"), ("b", "unclear"), ("c", "x better"), ("d", "x better")]
    assert group(words) == "x better on a, c and d; unclear on b"
    assert group(words[:1], "at") == "x better at a"


# --- Words of a contrast ----------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "choice", "p", "words"),
    [
        (0.1, 2.0, (0.2, 2.0), 0.01, "adamw clearly better"),
        (-2.0, -0.1, (-3.0, -0.2), 0.01, "adam_l2 clearly better"),
        (-0.1, 2.0, (-0.2, 2.0), 0.01, "no difference shown"),
        (0.1, 2.0, (-0.2, 2.0), 0.01, "unclear: depends on the choice"),
        (0.1, 2.0, (0.2, 2.0), 0.05, "not clear after correction"),
        (-INF, INF, (-INF, INF), 1.0, "no difference shown"),
    ],
)
@pytest.mark.parametrize(
    ("lucky", "open_", "note"),
    [
        (False, False, ""),
        (True, False, " (a chosen point was lucky)"),
        (False, True, " (a choice is not bracketed)"),
        (True, True, " (a chosen point was lucky, a choice is not bracketed)"),
    ],
)
def test_words_follow_the_numbers(low, high, choice, p, words, lucky, open_, note):
    from experiments.outcomes import Comparison
    from experiments.protocol import difference
    from experiments.statistics import Estimate

    contrast = difference("a", "b", "adamw", "adam_l2")
    given = Estimate(1.0, low, high, p)
    found = Comparison(contrast, given, choice, p, lucky, open_)
    assert found.verdict == words + note
    assert (found.sign != 0) == ("clearly" in words)


# --- The demo's report ------------------------------------------------------------


@pytest.mark.parametrize(
    ("heights", "sign", "words"),
    [
        (AHEAD, 1, "adamw clearly better"),
        (BEHIND, -1, "adam_l2 clearly better"),
        (EVEN, 0, "no difference shown"),
    ],
)
def test_the_demo_says_who_is_better(heights, sign, words, tmp_path):
    from experiments.reports.demo import conclusion, task_name
    from experiments.reports.mechanism import read_spreads

    results = results_of(tmp_path, demo(), simulated.valley(heights))
    simulated.store_measured(tmp_path, demo().plan)
    found = read_spreads(results, task_name)
    text = conclusion(results, found)
    for spread in found:
        assert spread.gap.sign == sign
        mean = f"{spread.gap.difference.mean:+.2f}"
        pattern = rf"on {spread.setting}: {re.escape(mean)} \[[^;]*\], {words}"
        assert re.search(pattern, text)
        assert spread.gap.difference.mean == pytest.approx(5 * sign, abs=1)
    assert "AdamW against no decay: adamw clearly better on " in text
    assert "Every choice is bracketed." in text
    assert "no finding" not in text


def of(name, decades, mean, sign):
    """A task with this spread and gap."""
    from experiments.outcomes import Comparison
    from experiments.protocol import difference
    from experiments.reports.mechanism import Spread
    from experiments.statistics import Estimate

    low, high = (mean - 0.5, mean + 0.5) if sign else (-9.0, 9.0)
    contrast = difference("a", "b", "adamw", "adam_l2")
    given = Estimate(mean, low, high, 0.01)
    gap = Comparison(contrast, given, (low, high), 0.01, lucky=False, open=False)
    return Spread(name, name, decades, gap)


WIDER = "AdamW is clearly better on the tasks with the wider spread"
ALONE = "the spread of √v alone does not predict the better arm"


def test_the_rule_of_the_spread_is_said_only_where_it_is_clear():
    from experiments.reports.demo import spread_rule

    wide, narrow = of("wide", 3.0, 5.0, 1), of("narrow", 1.0, 0.0, 0)
    message = spread_rule([wide, narrow])
    assert message.startswith(
        "AdamW is clearly better where the spread of √v is 3.0 decades (wide). "
        "On the other tasks it is 1.0 decades (narrow). "
    )
    assert WIDER in message
    assert ALONE not in message
    # Of two clear gaps the order says nothing, though the wider task has the smaller.
    other = of("other", 3.5, 1.0, 1)
    message = spread_rule([wide, other, narrow])
    assert "3.0 decades (wide) and 3.5 decades (other). On the other" in message
    assert WIDER in message
    assert ALONE not in message
    assert "On the other tasks" not in spread_rule([wide, other])


@pytest.mark.parametrize("sign", [0, -1])
def test_a_wider_task_without_a_clear_advantage_breaks_the_rule(sign):
    from experiments.reports.demo import spread_rule

    # Its mean is larger where it is not clear: noise.
    rest = of("rest", 2.0, -2.0 if sign else 6.0, sign)
    narrow, wide = of("narrow", 1.0, 5.0, 1), of("wide", 3.0, 5.0, 1)
    for message in (spread_rule([narrow, rest, wide]), spread_rule([narrow, rest])):
        assert "On the other tasks it is 2.0 decades (rest)." in message
        assert ALONE in message
        assert WIDER not in message
    message = spread_rule([wide, rest])
    assert WIDER in message
    assert ALONE not in message
    as_wide = spread_rule([wide, rest._replace(decades=3.0)])
    assert WIDER not in as_wide
    assert ALONE not in as_wide


def test_the_rule_claims_nothing_where_nothing_is_clear():
    from experiments.reports.demo import spread_rule

    nothing = "AdamW is not clearly better on any of these tasks."
    assert spread_rule([of("a", 3.0, 4.0, 0), of("b", 1.0, 0.0, 0)]) == nothing
    assert spread_rule([of("a", 3.0, -4.0, -1), of("b", 1.0, 0.0, 0)]) == nothing
    few = of("few", 3.0, 4.0, 0)
    gap = few.gap._replace(difference=few.gap.difference._replace(low=-INF, high=INF))
    assert spread_rule([few._replace(gap=gap)]).startswith("There are too few seeds")


def test_choices_that_may_not_be_the_best_are_said(tmp_path):
    from experiments.reports.results import caveats, choices_table

    far = {"adam_l2": (9, -5), "adamw": (2, -5)}
    results = results_of(tmp_path, demo(), simulated.valley(EVEN, far))
    name = "unlike scales adam_l2"
    assert results.outcomes[name].open == ["weight_decay above"]
    assert f"`{name}` (λ above)" in caveats(results)
    assert "`unlike scales adamw` (" not in caveats(results)
    rows = choices_table(results, "arm", list(results.outcomes)).splitlines()[2:]
    assert [("above" in row) for row in rows] == [
        "adam_l2" in outcome for outcome in results.outcomes
    ]


def test_a_lucky_choice_is_said(tmp_path):
    from experiments.protocol import FINAL
    from experiments.reports.results import caveats, choices_table

    def worse_later(labels, hparams):
        validation, test = simulated.valley(EVEN)(labels, hparams)
        unlucky = labels["stage"] == FINAL and labels["arm"] == "adamw"
        return validation - 0.05 * unlucky, test

    results = results_of(tmp_path, demo(), worse_later)
    assert {name for name, x in results.outcomes.items() if x.lucky} == {
        "unlike scales adamw",
        "LayerNorm adamw",
    }
    text = caveats(results)
    assert text.count("`unlike scales adamw`") == 1
    assert "validation: `unlike scales adamw` and `LayerNorm adamw`." in text
    rows = choices_table(results, "arm", list(results.outcomes)).splitlines()[2:]
    assert [("†" in row) for row in rows] == [
        name.endswith("w") for name in results.outcomes
    ]
    words = [each.verdict for each in results.comparisons.values() if each.lucky]
    assert len(words) == 4
    assert all(word.endswith("(a chosen point was lucky)") for word in words)


def test_the_provenance_says_what_ran_in_parallel_and_what_was_mixed(tmp_path):
    from experiments.reports.template import provenance_table

    manifest = results_of(tmp_path, demo(), simulated.valley(EVEN)).manifest
    text = provenance_table(manifest)
    assert "| plan | 0123456789ab |" in text
    assert "| cells in parallel | 16 (plan: 16) |" in text
    assert "mixed" not in text
    mixed = ["code (experiments.arms)", "device (count 64, now 2)"]
    manifest |= {"cells side by side": [4, 8], "mixed": mixed}
    text = provenance_table(manifest)
    assert "| cells in parallel | 4, 8 (plan: 16) |" in text
    assert f"| mixed | other {mixed[0]}; other {mixed[1]} |" in text
    text = provenance_table(manifest | {"cells side by side": []})
    assert "| cells in parallel | none (plan: 16) |" in text


def test_data_are_named_with_their_arguments(tmp_path):
    from experiments.reports.template import provenance_table

    manifest = results_of(tmp_path, demo(), simulated.valley(EVEN)).manifest
    call = {"call": "experiments.data.teacher.load", "with": [3437], "named": {}}
    data = {json.dumps(call): "a" * 64, "experiments.data.digits.load": "b" * 64}
    text = provenance_table(manifest | {"data": data})
    first, second = "a" * 12, "b" * 12
    assert f"| `teacher.load(3437)` {first}, `digits.load` {second} |" in text


@pytest.mark.parametrize("rows", [0, 1, 100, -1])
def test_a_table_that_was_cut_is_one_line(rows, tmp_path):
    from experiments.errors import UserError
    from experiments.reports.results import read_results

    results_of(tmp_path, demo(), simulated.valley(EVEN))
    path = tmp_path / "cells.csv"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[: rows + 1] if rows >= 0 else [*whole, whole[1]]))
    count = rows if rows >= 0 else len(whole)
    words = f"has {count} rows, but manifest.json says {len(whole) - 1} runs: delete"
    with pytest.raises(UserError, match=words):
        read_results(tmp_path)


def test_few_seeds_have_means_without_intervals(tmp_path):
    from experiments.reports.results import caveats, choices_table, contrasts_table
    from experiments.reports.template import protocol_section
    from experiments.studies import demo as module

    study = module.study(module.SMOKE)
    results = results_of(tmp_path, study, simulated.valley(AHEAD))
    tables = choices_table(results, "arm", list(results.outcomes)) + contrasts_table(
        results
    )
    assert not re.search(r"\d \[", tables)
    assert "clearly" not in tables
    words = "With only 4 final seeds there are means without intervals, and no finding."
    assert words in caveats(results)
    assert "Fewer than 10 seeds" in protocol_section(results)
    enough = results_of(tmp_path, demo(), simulated.valley(EVEN))
    assert "Fewer than 10" not in protocol_section(enough)


def test_an_error_is_possible():
    from experiments.outcomes import Outcome
    from experiments.protocol import ACCURACY, LOSS
    from experiments.reports.results import test_error as error_of
    from experiments.statistics import Estimate

    test = Estimate(99.0, 97.0, 101.0, 0.5)
    outcome = Outcome(None, {}, 1, 1, [], (0.0, 0.0, 0.0), False, test, 0)
    assert error_of(outcome, ACCURACY)[:3] == (1.0, 0.0, 3.0)
    low = outcome._replace(test=Estimate(1.0, -2.0, 4.0, 0.5))
    assert error_of(low, ACCURACY)[:3] == (99.0, 96.0, 100.0)
    loss = outcome._replace(test=Estimate(-1.08, -2.16, 0.5, 0.5))
    assert error_of(loss, LOSS)[:3] == (1.08, 0.0, 2.16)


def test_the_protocol_is_that_of_the_plan(tmp_path):
    from experiments.reports.template import protocol_section

    results = results_of(tmp_path, demo(), simulated.valley(EVEN))
    text = " ".join(protocol_section(results).split())
    for words in (
        "(6 to 66 points) on seeds 0 to 1. Up to 3 rounds then add up to 12 points",
        "The best 16 points of each arm run on seeds 2 to 3",
        "The best 3 points of tuning and screening together run on seeds 4 to 13",
        "The chosen point runs on seeds 14 to 23",
        "over all 6 contrasts of the study",
        "teacher; layers 64-128-10; 1437 examples, 25 % of their labels redrawn; 40",
        "layers 64-64-64-10, LayerNorm; 900 examples, 40 % of their labels redrawn; 60",
        "points are bracketed: one and two steps on either side were tried on each "
        "axis, and no neighbour is better beyond the noise. - **Screening",
        "Only these counts of correct answers choose. Ties go to the smaller λ, then "
        "the smaller learning rate. - **Equal",
        "A seed decides the split, the wrong labels, the initial weights and the batch",
        "and 96 for each arm that tunes only learning rate.",
        "266 for each arm that tunes learning rate and λ",
    ):
        assert words in text, words


def test_code_to_measure_the_spread_is_true(capsys):
    import jax
    import jax.numpy as jnp
    import optax

    from experiments.reports.demo import MEASURE

    state = optax.adamw(1e-3).init({"w": jnp.ones((101, 2)), "b": jnp.ones(101)})
    adam = state[0]
    root_v = jnp.repeat(10.0 ** jnp.linspace(-5, -1, 101)[:, None], 2, 1)
    nu = {"w": root_v**2, "b": jnp.full(101, 1e9)}  # a bias is no weight that decays
    state = (adam._replace(nu=nu),)
    exec(MEASURE, {"state": state, "jax": jax, "np": np, "optax": optax})
    number, unit = capsys.readouterr().out.split()
    assert float(number) == pytest.approx(0.8 * 4, abs=0.05)
    assert unit == "decades"


# --- The choice -------------------------------------------------------------------


def choices_of(study, table):
    from experiments.protocol import ranked_by_validation

    plan = study.plan
    return {e.name: ranked_by_validation(plan, e, table)[0] for e in plan.entries}


def test_validation_alone_chooses():
    from experiments.protocol import FINAL

    table = simulated.table_of(demo(), simulated.valley(EVEN))
    chosen = choices_of(demo(), table)
    rng = np.random.default_rng(0)
    for name in ("test_accuracy", "diverged"):
        scrambled = table | {name: rng.permutation(table[name])}
        assert choices_of(demo(), scrambled) == chosen
    final = np.where(table["stage"] == FINAL, 0.0, table["val_accuracy"])
    assert choices_of(demo(), table | {"val_accuracy": final}) == chosen
    tuning = np.where(table["stage"] == "tuning", 0.0, table["val_accuracy"])
    assert choices_of(demo(), table | {"val_accuracy": tuning}) == chosen
    other = np.where(table["stage"] == "validation", 0.0, table["val_accuracy"])
    assert choices_of(demo(), table | {"val_accuracy": other}) != chosen


def test_equal_counts_are_equal_though_their_means_differ():
    from experiments.protocol import ranked_by_validation, scores

    (entry, *_) = [e for e in demo().plan.entries if e.labels["arm"] == "adam_l2"]
    shares = {2.0**-3: (280, 281, 280), 2.0**-4: (279, 281, 281)}  # both 841 of 900
    rows = [
        (decay, seed, count / 300)
        for decay, counts in shares.items()
        for seed, count in enumerate(counts)
    ]
    decays, seeds, accuracy = map(np.array, zip(*rows, strict=True))
    accuracy = accuracy.astype(np.float32).astype(str).astype(float)
    means = {decay: accuracy[decays == decay].mean() for decay in shares}
    assert means[2.0**-3] > means[2.0**-4]  # by the last digits of float32
    table = {
        **{n: np.full(6, text, object) for n, text in entry.labels.items()},
        **{n: np.full(6, value) for n, value in entry.fixed.items()},
        **{"stage": np.full(6, "validation", object), "seed": seeds},
        **{"weight_decay": decays, "learning_rate": np.full(6, 0.25)},
        **{"val_accuracy": accuracy, "val_count": np.full(6, 300)},
    }
    found = scores(demo().plan, entry, table, "validation")
    assert {point: counts.sum() for point, counts in found.items()} == {
        (2.0**-3, 0.25): 841,
        (2.0**-4, 0.25): 841,
    }
    assert ranked_by_validation(demo().plan, entry, table)[0] == (2.0**-4, 0.25)


# --- Figures ----------------------------------------------------------------------


def is_drawn(path):
    return path.stat().st_size > 10_000


def test_the_report_of_a_partially_filled_grid(tmp_path):
    from experiments.reports.demo import write_report

    table = simulated.table_of(demo(), simulated.valley(AHEAD))
    table["diverged"][table["learning_rate"] > 0.1] = True
    simulated.store(tmp_path, demo(), table)
    simulated.store_measured(tmp_path, demo().plan, {"unlike scales adam": 2.0})
    printed = write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert printed.partition("Verdict. ")[2] in report
    assert all(is_drawn(path) for path in tmp_path.glob("*.png"))
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"gap.png", "heatmaps.png", "mechanism.png"}
    assert pictures == set(re.findall(r"\((\w+\.png)\)", report))
    spreads = "2.0 decades (unlike scales) and 1.0 decades (LayerNorm)"
    text = " ".join(report.split())
    assert f"The spreads here are {spreads}." in text
    assert "percentile of √v 100 times less" in text
    widths = {len(line) for line in printed.splitlines()[:7]}
    assert len(widths) == 1  # the table of the terminal is aligned


def test_large_squares_are_the_coarse_grid_and_small_ones_are_drawn_on_top(tmp_path):
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from experiments.reports.figures import draw_squares

    results = results_of(tmp_path, demo(), simulated.valley(EVEN))
    outcome = results.outcomes["unlike scales adam_l2"]  # coarse steps: 2 of λ, 4 of γ
    axes = Figure().add_subplot()
    colours = ScalarMappable(Normalize(0, 10))
    coarse, added = (2.0**-6, 2.0**-7), (2.0**-6, 2.0**-8)
    draw_squares(axes, {added: np.nan, coarse: 1.0}, outcome.entry, colours)
    (squares,) = axes.collections
    boxes = [path.get_extents().bounds for path in squares.get_paths()]
    assert boxes == [(-6.5, -8.0, 1, 2), (-6.5, -8.5, 1, 1)]  # the small one is on top
    expected = [colours.to_rgba(1.0), colours.to_rgba(np.nan)]
    np.testing.assert_array_equal(squares.get_facecolor(), expected)


def test_axes_are_labelled_with_powers_of_two_alone(tmp_path):
    from experiments.reports.figures import plot_heat_maps

    results = results_of(tmp_path, demo(), simulated.valley(EVEN))
    names = ["unlike scales adam_l2", "unlike scales adamw"]
    figure = plot_heat_maps(results, [names])
    figure.canvas.draw()
    for axes in figure.axes[:2]:
        for ticks in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in ticks.get_ticklabels()]
            assert len(labels) > 2
            assert all(re.fullmatch(r"\$2\^\{-?\d+\}\$", text) for text in labels)
    # One scale: 0 is the best of the task, in whichever panel it is.
    assert figure.axes[-1].get_ylim() == (0, 15)


# --- The mechanism ----------------------------------------------------------------


def test_shrinks_are_the_whole_effect_and_say_what_is_left_out(tmp_path):
    from experiments.reports.mechanism import fit_shrink, read_shrinks, shrink_caption

    simulated.store_measured(tmp_path, demo().plan)
    found = read_shrinks(tmp_path)
    assert list(found) == ["adam_l2", "adamw"]
    l2, decoupled = (fit_shrink(arrays) for arrays in found.values())
    assert l2.slope == pytest.approx(-1)
    assert decoupled.slope == pytest.approx(0)
    shrink, root_v = found["adam_l2"]["shrink"], found["adam_l2"]["root_v"]
    np.testing.assert_allclose(shrink, 0.01 / root_v)
    assert l2.used.all()
    arrays = {name: np.array(x) for name, x in found["adam_l2"].items()}
    arrays["rms_g"][:5] = arrays["rms_w"][3:9] = 0.0
    arrays["shrink"][8:11] = -1.0
    line = fit_shrink(arrays)
    assert list(line.excluded.values()) == [5, 4, 2]
    assert line.used.sum() == 100 - 11
    text = shrink_caption(found | {"adam_l2": arrays}, "here")
    assert (
        "11 of 100 weights of `adam_l2` (5 have no gradient in the epoch, 4 are" in text
    )
    assert "0 of 100 weights of `adamw`." in text
    assert "`adam_l2` at learning rate 2⁻² and λ = 2⁻¹" in text


def test_the_spread_is_between_the_percentiles(tmp_path):
    from experiments.reports.demo import task_name
    from experiments.reports.mechanism import read_spreads

    results = results_of(tmp_path, demo(), simulated.valley(EVEN))
    simulated.store_measured(tmp_path, demo().plan, {"LayerNorm adam": 3.0})
    found = read_spreads(results, task_name)
    assert [(spread.setting, spread.task) for spread in found] == [
        ("unlike scales", "unlike scales"),
        ("LayerNorm", "LayerNorm"),
    ]
    assert [spread.decades for spread in found] == pytest.approx([1.0, 3.0])
    assert found[1].gap is results.comparisons["LayerNorm: adamw − adam_l2"]


# --- why --------------------------------------------------------------------------


@functools.cache
def why():
    from experiments.studies import why

    task = why.WhyTask("digits", why.training_setups.DIGITS, 40, (0.0, 0.5, 1.0))
    return why.study(full_size(why.plan_of([task])))


def rising(gaps):
    """AdamW ahead of L2 by these shares at s = 0, 0.5 and 1."""

    def height(labels, hparams):
        gain = gaps[round(2 * hparams["spread"])] if labels["arm"] == "adamw" else 0.0
        return 0.8 + gain

    return simulated.valley(height)


@pytest.mark.parametrize(
    ("gaps", "words", "largest"),
    [
        ((0.0, 0.03, 0.06), "the gap grows on digits", None),
        ((0.0, 0.08, 0.06), "the gap grows on digits", "s = 0.5"),
        ((0.06, 0.03, 0.0), "the gap shrinks on digits", None),
        ((0.03, 0.03, 0.03), "no difference shown on digits", None),
    ],
)
def test_why_says_whether_the_gap_grows(gaps, words, largest, tmp_path):
    from experiments.reports.why import conclusion

    text = conclusion(results_of(tmp_path, why(), rising(gaps)))
    assert f"Slope over s of the gap between AdamW and Adam with L2: {words}." in text
    assert ("gap is largest" in text) == (largest is not None)
    assert largest is None or f"of s. The mean gap is largest at {largest}." in text
    assert "straight line" not in text


def test_why_says_what_decay_does_against_none(tmp_path):
    from experiments.reports.why import conclusion

    def height(labels, hparams):
        arm, spread = labels["arm"], hparams["spread"]
        return 0.8 + {"adam": 0.0, "adamw": 0.05}.get(arm, 0.05 * (spread < 0.2))

    text = conclusion(results_of(tmp_path, why(), simulated.valley(height)))
    assert "better than no decay in 1 of 3 settings, AdamW in 3." in text
    message = (
        "L2 against no decay: adam_l2 clearly better at s = 0; no difference shown at"
    )
    assert message in text
    assert (
        "AdamW against no decay: adamw clearly better at s = 0, s = 0.5 and s = 1"
        in text
    )


def test_the_report_of_why(tmp_path):
    from experiments.reports.why import write_report

    table = simulated.table_of(why(), rising((0.0, 0.03, 0.06)))
    simulated.store(tmp_path, why(), table)
    spreads = {f"digits {s:g} adam": 1 + s for s in (0.0, 0.5, 1.0)}
    simulated.store_measured(tmp_path, why().plan, spreads)
    verdict = write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert verdict.removeprefix("Verdict. ") in report
    assert {path.name for path in tmp_path.glob("*.png") if is_drawn(path)} == {
        *("gap.png", "mechanism.png", "spread.png"),
    }
    assert "a run on digits at s = 0.5" in report
    assert "Rank correlation over all dots: 1.00." in report


# --- tuning -----------------------------------------------------------------------


@functools.cache
def tuning():
    from experiments.studies import tuning

    task = tuning.TEACHER._replace(
        first_rate={"Adam": -9},
        first_decay={"adam_l2": -7, "adamw": -7, "adam_independent": -7},
    )
    arms = [arm for arm in tuning.ARMS if arm.base == "Adam"]
    return tuning.study(full_size(tuning.plan_of([task], arms, 9)))


def leaning(slopes):
    """Valleys whose ridges have these slopes by arm."""

    def score(labels, hparams):
        return simulated.valley(EVEN, slope=slopes[labels["arm"]])(labels, hparams)

    return score


def test_tuning_says_which_grids_are_separable(tmp_path):
    from experiments.reports.tuning import conclusion, read_grids

    slopes = {"adam_l2": 1.0, "adamw": 0.0, "adam_independent": -1.0}
    results = results_of(tmp_path, tuning(), leaning(slopes))
    grids = read_grids(results)
    for grid in grids:
        slope = slopes[grid.entry.labels["arm"]]
        assert grid.ridge.slope == pytest.approx(slope, abs=0.15)
        assert grid.verdict == ("not separable" if slope else "separable")
    text = conclusion(results, grids)
    first, second = "`teacher adamw`", "`teacher adam_independent`"
    assert (
        f"With decoupled decay: 1 of the 2 grids separable ({first}), 1 not separable "
        f"({second}), 0 undetermined, 0 without ridge."
    ) in text
    assert "With L2: 0 of the 1 grids separable, 1 not separable (`teacher ad" in text


def test_grids_without_a_ridge_and_undecided_ones():
    from experiments.reports.tuning import add_verdicts, count_verdicts, Grid
    from experiments.separability import Ridge

    (entry, *_) = tuning().plan.entries
    wide = Ridge(0.2, 0.0, -1.0, 1.4, 0.5, 0.9, ((-5.0, 1.0), (-3.0, 1.4)))
    flat = Grid(entry, np.zeros((2, 2)), None, 10)
    open_ = flat._replace(ridge=wide)
    coupled = flat._replace(ridge=wide._replace(p_not_separable=0.001))
    separable = flat._replace(ridge=wide._replace(p_separable=0.001))
    few = coupled._replace(seeds=2)
    judged = add_verdicts([flat, open_, coupled, separable, few])
    assert [grid.verdict for grid in judged] == [
        *("without ridge", "undetermined", "not separable", "separable", "undetermined")
    ]
    # Corrected for both questions of all ridges.
    several = add_verdicts([flat._replace(ridge=wide._replace(p_separable=0.02))] * 3)
    assert {grid.verdict for grid in several} == {"undetermined"}
    open_ = judged[1]
    assert count_verdicts([flat, open_, open_], "L2") == (
        "With L2: 0 of the 3 grids separable, 0 not separable, 2 undetermined, "
        "1 without ridge."
    )


def test_ridges_are_drawn_where_the_table_has_a_slope(tmp_path):
    from experiments.reports.tuning import plot_ridges, read_grids

    slopes = {"adam_l2": 1.0, "adamw": 0.0, "adam_independent": -1.0}
    grids = read_grids(results_of(tmp_path, tuning(), leaning(slopes)))
    grids[0] = grids[0]._replace(ridge=None)
    (axes,) = plot_ridges(grids).axes
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    drawn = [line for line in lines if len(line.get_xdata()) == 2]
    assert len(drawn) == 2
    for line, grid in zip(drawn, grids[1:], strict=True):
        rates = [x for x, _ in grid.ridge.centres]
        assert tuple(line.get_xdata()) == (min(rates), max(rates))
        rise = np.diff(line.get_ydata()) / np.diff(line.get_xdata())
        assert rise == pytest.approx(grid.ridge.slope)


def test_the_advantage_is_that_of_the_best_strengths_of_a_rate(tmp_path):
    from experiments.reports.tuning import plot_advantage, read_grids

    results = results_of(tmp_path, tuning(), simulated.valley(AHEAD, noise=0.002))
    (axes,) = plot_advantage(read_grids(results)).axes
    scaled, good, independent = axes.lines[:3]
    assert set(good.get_xdata()) < set(scaled.get_xdata())
    assert scaled.get_label() == "lr-scaled against L2"
    assert scaled.get_xdata().tolist() == list(range(-9, 0))
    np.testing.assert_allclose(scaled.get_ydata(), 5, atol=1)
    np.testing.assert_allclose(independent.get_ydata(), 0, atol=1)


def test_the_report_of_tuning(tmp_path):
    from experiments.reports.tuning import write_report

    score = simulated.valley(AHEAD | {"adam_independent": 0.75})
    simulated.store(tmp_path, tuning(), simulated.table_of(tuning(), score))
    verdict = write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert verdict.removeprefix("Verdict. ") in report
    assert {path.name for path in tmp_path.glob("*.png") if is_drawn(path)} == {
        *("advantage.png", "heatmaps-teacher.png", "ridges.png"),
    }
    assert re.search(r"adamw − adam_l2: \+.*?\], adamw clearly better;", verdict)
    words = r"adam_independent − adam_l2: -[^;]*\], adam_l2 clearly better"
    assert re.search(words, verdict)


# --- same -------------------------------------------------------------------------


def test_same_says_where_the_two_are_one():
    from experiments.reports.same import conclusion, Pair

    still = {
        "SGD/L2": np.array([[1.0, 0.9], [1.0, 0.5]]),
        "Adam/L2": np.array([[1.0, 0.64], [1.0, 0.641]]),
    }
    one = Pair("SGD", "constant", same=1e-7, closest=1e-7, ratio=1.0, none=0.1)
    other = Pair("Adam", "constant", same=0.5, closest=0.3, ratio=512.0, none=0.5)
    text = conclusion(still, [one, other, other._replace(schedule="cosine")])
    assert "at the same value for every λ under Adam with L2 (at 0.64). λ" in text
    assert "λ changes the value under SGD with L2." in text
    assert "up to rounding under SGD (constant rate). They differ under Adam." in text
    assert "differ by 60 % (Adam) of the distance between L2 and no decay." in text


def test_same_calls_a_small_distance_a_difference():
    from experiments.reports.same import conclusion, Pair

    pair = Pair("Adam", "constant", same=1e-3, closest=1e-3, ratio=1.0, none=0.1)
    text = conclusion({}, [pair, pair._replace(schedule="cosine")])
    assert "equal up to rounding under no optimizer. They differ under Adam." in text


def test_the_figure_of_same_shows_shares_up_to_two(tmp_path):
    from experiments import files
    from experiments.reports.same import plot_distances

    ratios = np.array([0.0, 0.5, 1.0, 2.0**10, 2.0**11])
    distance = np.array([0.5, 0.4, 0.25, 1e15, 1e18])[:, None] * np.ones(3)
    arrays = {"ratio": ratios, "distance": distance}
    files.write_arrays(tmp_path / "distance-Adam-cosine.npz", arrays)
    files.write_arrays(tmp_path / "distance-SGD-cosine.npz", arrays)
    plan = {"learning_rates": {"Adam": 1, "SGD": 1}, "schedules": ["cosine"]}
    for axes in plot_distances(tmp_path, plan).axes:
        line, best, _ = axes.lines
        assert line.get_xdata().tolist() == [0.5, 1.0, 2.0**10]
        assert line.get_ydata()[:2].tolist() == [0.8, 0.5]
        assert (best.get_xdata(), best.get_ydata()) == (1.0, 0.5)
        assert axes.get_yscale() == "linear"
        assert axes.get_ylim()[1] == 2


# --- Any study with the protocol --------------------------------------------------


def test_the_report_of_any_study_has_every_contrast_and_entry(tmp_path):
    from experiments.reports.generic import write_report

    simulated.store(
        tmp_path, demo(), simulated.table_of(demo(), simulated.valley(EVEN))
    )
    verdict = write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert verdict.removeprefix("Verdict. ") in report
    for contrast in demo().plan.contrasts:
        assert contrast.name in verdict
        assert f"| {contrast.name} |" in report
    assert all(f"| `{entry.name}` |" in report for entry in demo().plan.entries)
    assert is_drawn(tmp_path / "heatmaps.png")


@functools.cache
def unlike():
    """No task, a loss, 0 among the strengths, three axes and one, no classification."""
    from experiments import arms, protocol
    from experiments.data import corpus
    from experiments.engine.config import cosine, StaticConfig
    from experiments.engine.study import Study
    from experiments.models.transformer import transformer
    from experiments.reports.generic import write_report
    from experiments.search import Axis, powers
    from experiments.tasks import Language

    setup = Language(
        data=corpus.shakespeare,
        model=transformer,
        **{"symbols": 65, "length": 32, "batch": 8, "steps_per_epoch": 10},
    )
    config = StaticConfig(setup, arms.adamw, 3, 3, cosine)
    rate = Axis("learning_rate", powers(-7, -3), 2.0**-9, 2.0**-1)
    decay = Axis("weight_decay", (0.0, *powers(-4, 0)), 2.0**-6, 2.0**4)
    momentum = Axis("momentum", (0.0, 0.9), ratio=None)
    both, three = (rate, decay), (rate, decay, momentum)
    axes = {"pair": both, "three": three, "decay": (decay,)}
    fixed = {"pair": {}, "three": {}, "decay": {"learning_rate": 2.0**-5}}
    entries = [
        protocol.Entry(name, {"arm": name}, config, axes[name], fixed[name])
        for name in axes
    ]
    plan = protocol.ProtocolPlan(
        entries=tuple(entries),
        contrasts=(protocol.difference("pair", "three", "pair", "three"),),
        measure=protocol.LOSS._replace(score="val_accuracy", reported="test_accuracy"),
    )
    stages = protocol.stages(full_size(plan))
    return Study("unlike", full_size(plan), stages, write_report)


def loss_of(labels, hparams):
    """1.08 at the best rate and strength; the seed adds up to 0.01."""
    rate, decay = np.log2(hparams["learning_rate"]) + 5, hparams["weight_decay"] - 0.25
    loss = 1.08 + 0.1 * rate**2 + 0.1 * decay**2 + 0.001 * (hparams["seed"] % 10)
    return loss, loss + 0.001 * (labels["arm"] == "three") * (hparams["seed"] % 3)


@pytest.mark.filterwarnings("error")
def test_the_report_of_any_study_serves_other_axes_measures_and_recipes(tmp_path):
    from experiments.reports.generic import write_report

    simulated.store(tmp_path, unlike(), simulated.table_of(unlike(), loss_of))
    verdict = write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert " nats. " in verdict
    header, rule, *rows = report[report.index("| entry |") :].splitlines()[:5]
    assert header == (
        "| entry | learning rate | λ | momentum | not bracketed | points (runs) | "
        "tuning nats | validation nats | fresh seeds nats | test error nats [95 %] | "
        "diverged |"
    )
    assert rule.count("--:") == 6
    chosen = [row.split(" | ")[1:4] for row in rows]
    assert chosen == [["2⁻⁵", "2⁻²", "–"], ["2⁻⁵", "2⁻²", "0"], ["–", "2⁻²", "–"]]
    errors = [row.split(" | ")[i] for row in rows for i in (6, 7, 8)]
    assert all(text.startswith("1.08") for text in errors)
    assert set(re.findall(r"(\S+) %", report)) == {"95", "[95"}
    assert "correct answers" not in report
    text = " ".join(report.split())
    for words in (
        "- **pair, three and decay.** all training characters of Shakespeare; model "
        "transformer; 30 steps of 8 windows of 32 characters.",
        "Only these scores choose. Ties go to the smaller learning rate, then the "
        "smaller λ, then the smaller momentum. - **Equal",
        "for each arm that tunes learning rate, λ and momentum,",
        "for each arm that tunes learning rate and λ and",
        "for each arm that tunes only λ.",
        "A seed decides all that is random in a run, the same for all arms. No choice",
    ):
        assert words in text, words
    assert is_drawn(tmp_path / "heatmaps.png")


@pytest.mark.filterwarnings("error")
def test_a_heat_map_has_0_below_the_others_and_the_strength_across(tmp_path):
    from experiments.reports.figures import plot_heat_maps

    results = results_of(tmp_path, unlike(), loss_of)
    figure = plot_heat_maps(results, [["pair"]])  # its axes: learning rate, λ
    figure.canvas.draw()
    axes, bar = figure.axes
    (star,) = [line for line in axes.lines if line.get_marker() == "*"]
    assert (star.get_xdata().tolist(), star.get_ydata().tolist()) == ([-2], [-5])
    (tried,) = [line for line in axes.lines if line.get_marker() == "."]
    assert np.min(tried.get_xdata()) == -7  # the neighbour below the end, 2⁻⁶
    labels = [label.get_text() for label in axes.get_xticklabels()]
    at = dict(zip(labels, axes.get_xticks().tolist(), strict=True))
    assert at["0"] == -7
    assert all(at[f"$2^{{{x:.0f}}}$"] == x for x in at.values() if x != -7)
    assert re.fullmatch(r"pair: 1\.08 nats", axes.get_title())
    assert bar.get_ylabel().endswith("(nats)")
    assert 0 < bar.get_ylim()[1] < 2


def test_heat_maps_are_of_strength_and_rate_alone(tmp_path, monkeypatch):
    from experiments.reports import generic as reports

    drawn = []
    monkeypatch.setattr(reports, "plot_heat_maps", lambda _, rows: drawn.extend(rows))
    monkeypatch.setattr(reports, "save", lambda *_: None)
    simulated.store(tmp_path, unlike(), simulated.table_of(unlike(), loss_of))
    reports.write_report(tmp_path)
    assert drawn == [["pair"]]


def test_a_model_that_is_not_a_perceptron_is_named():
    from experiments import arms, training_setups
    from experiments.engine.config import cosine, StaticConfig
    from experiments.engine.describe import describe
    from experiments.models.transformer import transformer
    from experiments.reports.template import describe_setup

    setup = dataclasses.replace(training_setups.DIGITS, model=transformer)
    text = describe_setup(describe(StaticConfig(setup, arms.adamw, 3, 3, cosine)))
    assert text.startswith("digits; model transformer; 900 examples, 40 % of their")


def test_the_order_of_the_axes_is_said_only_where_entries_share_it():
    from experiments.reports.template import _choosing

    plan = unlike().plan
    turned = plan.entries[0]._replace(axes=plan.entries[0].axes[::-1])
    plan = dataclasses.replace(plan, entries=(*plan.entries, turned))
    message = " ".join(_choosing(plan).split())
    assert message.endswith(
        "Ties go to the smaller value, axis by axis in the order of the entry."
    )


def test_same_says_how_near_the_best_other_strength_comes(tmp_path):
    import json

    from experiments import files
    from experiments.engine.store import FORMAT
    from experiments.reports.same import claims

    plan = {"learning_rates": {"SGD": 1, "Adam": 1}, "schedules": ["cosine"]}
    manifest = {
        "format": FORMAT,
        "study": "same",
        "hash": "0",
        "plan": plan,
    }
    files.write_text(tmp_path / "manifest.json", json.dumps(manifest))
    for base, best in (("SGD", 0.019), ("Adam", 0.021)):  # 4.75 and 5.25 % of 0.4
        distance = np.array([0.4, 0.3, best])[:, None] * np.ones(3)
        arrays = {"ratio": np.array([0.0, 1.0, 2.0]), "distance": distance}
        files.write_arrays(tmp_path / f"distance-{base}-cosine.npz", arrays)
    end = "5 % of the distance to no decay"
    found = claims(tmp_path)
    assert found["SGD, cosine rate: with the best other λ"] == f"within {end}"
    assert found["Adam, cosine rate: with the best other λ"] == f"more than {end}"
