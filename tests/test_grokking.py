"""The study of grokking: fair arms, the control, and what the tests are called."""

import numpy as np
import pytest


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("the experiments run under JAX's defaults"),
]


def times(*steps, end=100):
    """Runs that arrive at these steps; `end` means censored."""
    from experiments.survival import Times

    return Times(np.array(steps, float), np.array(steps) < end)


EVERY, NEVER = times(*range(10, 20)), times(*[100] * 10)
SOME = times(*[10] * 9, 100)


def test_l2_and_adamw_get_equal_grids_and_every_pair_is_a_contrast():
    from experiments.search import coarse_grid
    from experiments.studies.grokking import FULL

    sizes = {e.name: len(coarse_grid(e.axes)) for e in FULL.entries}
    assert sizes["MLP L2"] == sizes["MLP AdamW"] == sizes["transformer L2"]
    assert len(FULL.contrasts) == 6
    for entry in FULL.entries:
        steps = entry.config.setup.steps
        assert entry.config.epochs * entry.config.setup.look_every == steps
        assert entry.fixed["warmup"] * steps == pytest.approx(10)


def test_an_arm_without_decay_has_no_decay():
    from experiments.studies.grokking import FULL, NONE

    none = [entry for entry in FULL.entries if entry.labels["arm"] == NONE]
    assert len(none) == 2
    assert all(entry.fixed["weight_decay"] == 0 for entry in none)


@pytest.mark.parametrize(
    ("none", "l2", "adamw", "said"),
    [
        (NEVER, EVERY, EVERY, "holds"),
        (SOME, EVERY, EVERY, "without decay 9 of 10"),
        (NEVER, SOME, EVERY, "with L2 only 9 of 10"),
        (NEVER, EVERY, NEVER, "with AdamW only 0 of 10"),
    ],
)
def test_the_control_needs_none_without_and_all_with_decay(none, l2, adamw, said):
    from experiments.reports.grokking import _control

    text = _control({"none": none, "L2": l2, "AdamW": adamw})
    assert said in text
    assert (text == "holds") == (said == "holds")


def test_the_arm_that_arrives_first_is_called_sooner():
    from experiments.reports.grokking import Test
    from experiments.survival import log_rank

    late = times(*range(50, 60))
    for first, second in ((EVERY, late), (late, EVERY)):
        found = log_rank(first, second)
        test = Test("MLP", "first", "second", *found, found.p)
        assert test.verdict == ("first sooner" if first is EVERY else "second sooner")
        assert test._replace(p_holm=0.05).verdict == "no difference shown"


def test_the_median_of_censored_runs_is_not_a_number_of_steps():
    from experiments.reports.grokking import _median

    assert _median(NEVER) == "not reached"
    assert _median(times(10, 20, 100, 100)) == "20"
    assert _median(times(10, 100, 100)) == "not reached"


def test_all_runs_without_decay_are_counted():
    from experiments.reports.grokking import _without_decay

    table = {
        "task": np.array(["MLP"] * 5 + ["transformer"], dtype=object),
        "arm": np.array(["none"] * 4 + ["L2", "none"], dtype=object),
        "stage": np.array(["tuning", "tuning", "final", "final", "final", "final"]),
        "learning_rate": np.array([0.1, 0.2, 0.1, 0.1, 0.4, 0.8]),
        "arrived": np.array([0, 1, 0, 0, 1, 1]),
    }
    text = _without_decay(table, "MLP")
    assert "1 of 4 runs" in text
    assert "2 learning rates" in text
