"""The experiment on bfloat16: end to end, and that what is published follows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_studies import run_smoke


ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "experiments" / "results" / "bf16"
pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("optax.adamw; the experiments run under JAX's defaults"),
]


@pytest.mark.slow
def test_smoke_run_end_to_end(tmp_path):
    from experiments.studies.bf16 import SMOKE, study, write_report

    folder, verdict = run_smoke("bf16", tmp_path)
    files = contents(folder)
    assert set(files) == {
        *("cells.csv", "manifest.json", "report.md", "kept.png", "training.png"),
        *(f"retained-{number}.npz" for number in range(len(SMOKE.arms))),
        "memory.npz",
    }
    manifest = json.loads(files["manifest.json"])
    assert manifest["stages"] == {s.name: s.runs for s in study(SMOKE).stages}
    check_runs(folder, manifest["runs"])
    assert verdict.removeprefix("Verdict. ") in (folder / "report.md").read_text()
    assert write_report(folder) == verdict
    assert contents(folder) == files


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_runs(folder: Path, count: int):
    """Every arm has the same seeds and strengths, and the arrays are as planned."""
    from experiments import cells
    from experiments.reports.bf16 import read_results
    from experiments.studies.bf16 import SMOKE

    stored = read_results(folder)
    runs = stored.runs
    assert len(runs["seed"]) == count == len(SMOKE.arms) * 2 * 2
    assert not runs["diverged"].any()
    assert np.isfinite(runs["train_loss"]).all()
    numbers = ("learning_rate", "weight_decay", "seed")
    (same,) = {
        tuple(tuple(cells.where(runs, arm=arm)[name]) for name in numbers)
        for arm in SMOKE.arms
    }
    assert set(zip(*same, strict=True)) == {
        (SMOKE.learning_rate, strength, seed)
        for strength in SMOKE.weight_decays
        for seed in range(SMOKE.seeds)
    }
    assert list(stored.retained) == list(SMOKE.arms)
    for arrays in stored.retained.values():
        rates = np.array(SMOKE.rates)
        np.testing.assert_array_equal(arrays["rate"], rates)
        np.testing.assert_allclose(arrays["exact"], (1 - rates) ** SMOKE.decay_steps)
    assert stored.memory["arm"].tolist() == list(SMOKE.arms)


def test_arms_differ_in_dtype_and_chain_alone():
    from experiments.studies.bf16 import ARMS, FULL, SMOKE, training_groups

    for plan in (FULL, SMOKE):
        groups = training_groups(plan)
        assert all(group.cells == plan.cells() for group in groups)
        (same,) = {
            repr(group.config._replace(make_optimizer=None)).replace(
                "bfloat16", "float32"
            )
            for group in groups
        }
        assert "make_optimizer=None" in same
        dtypes = [group.config.setup.dtype for group in groups]
        assert dtypes == [arm.dtype for arm in ARMS if arm.name in plan.arms]
    assert FULL.seeds >= 10


def test_every_fix_decays_and_plain_bfloat16_does_not():
    from experiments.reports.bf16 import EXACT, FIXES, INSIDE, PLAIN
    from experiments.studies.bf16 import ARMS, retained_fractions, SMOKE

    rate = 1e-3
    exact = (1 - rate) ** SMOKE.decay_steps
    found = {arm.name: retained_fractions(SMOKE, arm, rate) for arm in ARMS}
    for name in (EXACT, *FIXES):
        assert found[name] == pytest.approx((exact, exact), abs=0.002)
    for name in (PLAIN, INSIDE):
        assert found[name] == (1.0, 1.0)
    assert set(found) == {EXACT, *FIXES, PLAIN, INSIDE}
    for name, (weights, with_residual) in found.items():
        assert (weights == with_residual) == ("compensated" not in name)


def test_what_compensation_has_not_yet_given_to_the_weights_is_in_the_residual():
    from experiments.studies.bf16 import ARMS, retained_fractions, SMOKE

    (arm,) = [arm for arm in ARMS if arm.name == "compensated"]
    weights, with_residual = retained_fractions(SMOKE, arm, 1e-6)
    assert weights == 1.0
    assert 1 - with_residual == pytest.approx(SMOKE.decay_steps * 1e-6, rel=0.02)


def test_bytes_of_every_arm():
    from experiments.studies.bf16 import ARMS, bytes_per_weight, FULL

    assert {arm.name: bytes_per_weight(FULL, arm) for arm in ARMS} == {
        "float32": (4, 8),
        "bf16": (2, 4),
        "bf16, float32 inside": (2, 8),
        "stochastic": (2, 8),
        "compensated": (2, 10),
        "stochastic, moments too": (2, 4),
        "compensated, moments too": (2, 6),
    }


# --- Words ------------------------------------------------------------------------


def made_up(shares, norms, accuracy=0.0):
    """Results with these shares of the decay by arm, and these gaps to float32."""
    from experiments.reports.bf16 import Bf16Results, EXACT, FIXES, INSIDE, PLAIN

    arms = (EXACT, PLAIN, INSIDE, *FIXES)
    rates = np.array([1e-5, 1e-3])
    exact = (1 - rates) ** 100
    retained = {
        arm: {
            "rate": rates,
            "weights": np.ones(2),
            "with_residual": exact ** shares.get(arm, 1.0),
            "exact": exact,
        }
        for arm in arms
    }
    rows = [
        (arm, strength, seed)
        for arm in arms
        for strength in (0.0, 1.0)
        for seed in (0, 1)
    ]
    off = np.array([norms.get(arm, 0.0) * strength for arm, strength, _ in rows])
    seeds = np.array([seed for *_, seed in rows])
    plain = np.array([arm == PLAIN for arm, *_ in rows])
    runs = {
        "arm": np.array([arm for arm, *_ in rows], object),
        "weight_decay": np.array([strength for _, strength, _ in rows]),
        "seed": seeds,
        "rms_w": (1 + seeds) * (1 + off),
        "train_loss": 1 + 0.1 * seeds + off,
        "test_accuracy": 0.5 + accuracy * plain,
    }
    return Bf16Results(retained, runs, {}, {})


def test_the_conclusion_follows_the_numbers():
    from experiments.reports.bf16 import conclusion, FIXES, INSIDE, PLAIN

    lost = {PLAIN: 0.0, INSIDE: 0.0, FIXES[0]: 0.97}
    off = {PLAIN: 0.25, FIXES[3]: -0.02}
    text = conclusion(made_up(lost, off, accuracy=0.03))
    assert "Without gradients, plain bfloat16 does not decay for γλ ≤ 0.001;" in text
    assert "float32 inside the optimizer does not decay for γλ ≤ 0.001." in text
    assert "compensation apply 97 to 100 % of the decay, for γλ from 1e-05" in text
    assert "weight norm is within 2.00 % of float32" in text
    noise = 0.1 / 2**0.5
    assert f"within {0.02 / noise:.2f} standard deviations" in text
    assert (
        "Plain bfloat16 differs most at λ = 1: its weight norm is 25 % larger, its "
        "training loss differs by +0.25, and its test accuracy is 3.0 points better."
    ) in text

    text = conclusion(made_up({}, {}, accuracy=-0.03))
    assert "Without gradients, plain bfloat16 decays;" in text
    assert "float32 inside the optimizer decays." in text
    assert "apply 100 to 100 % of the decay" in text
    assert "within 0.00 % of float32" in text
    assert "3.0 points worse" in text


def test_without_decay_gradient_steps_are_lost():
    from experiments.reports.bf16 import conclusion, PLAIN

    stored = made_up({}, {PLAIN: 0.25})
    without = stored.runs["weight_decay"] == 0
    plain = without & (stored.runs["arm"] == PLAIN)
    runs = stored.runs | {"rms_w": np.where(plain, 0.5, 1) * stored.runs["rms_w"]}
    text = conclusion(stored._replace(runs=runs))
    assert "at λ = 0: its weight norm is 50 % smaller" in text
    assert "At λ = 0 nothing decays: here it loses gradient steps, not decay." in text
    assert "gradient steps" not in conclusion(stored)


def test_gaps_are_paired_by_seed():
    from experiments.reports.bf16 import gaps, LOSS, PLAIN, SIZE

    # Seeds differ twofold; every one of them is a quarter larger in plain bfloat16.
    found = {
        gap.weight_decay: gap
        for gap in gaps(made_up({}, {PLAIN: 0.25}))
        if gap.arm == PLAIN
    }
    assert found[1.0].differences[SIZE].mean == pytest.approx(25)
    assert found[1.0].differences[LOSS].mean == pytest.approx(0.25)
    assert found[1.0].rms_w == pytest.approx(1.25 * 1.5)
    assert found[0.0].differences[SIZE].mean == found[0.0].differences[LOSS].mean == 0


# --- What is published ------------------------------------------------------------


def test_the_verdict_follows_from_the_published_runs():
    from experiments.reports.bf16 import (
        applied,
        conclusion,
        FIXES,
        gaps,
        PLAIN,
        read_results,
        SIZE,
    )

    stored = read_results(PUBLISHED)
    assert conclusion(stored) in (PUBLISHED / "report.md").read_text()
    assert stored.manifest["plan"]["seeds"] >= 10
    for gap in gaps(stored):
        if gap.arm in FIXES:
            assert abs(gap.differences[SIZE].mean) < 2
        if gap.arm == PLAIN:
            assert abs(gap.differences[SIZE].mean) > 2
    for arm in set(FIXES) & set(stored.retained):
        assert np.abs(applied(stored.retained[arm]) - 1).max() < 0.05


def test_the_published_report_is_made_from_the_files_next_to_it(tmp_path):
    from experiments.studies.bf16 import write_report

    for path in PUBLISHED.iterdir():
        if path.is_file() and path.suffix in (".csv", ".json", ".npz"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    write_report(tmp_path)
    report = (PUBLISHED / "report.md").read_text()
    assert (tmp_path / "report.md").read_text() == report
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {path.name for path in PUBLISHED.glob("*.png")}
    assert pictures == set(re.findall(r"\((\w+\.png)\)", report))


def test_the_page_quotes_the_published_runs():
    from experiments.reports.bf16 import (
        ACCURACY,
        FIXES,
        gaps,
        PLAIN,
        read_results,
        SIZE,
    )

    page = (ROOT / "docs" / "howto" / "bf16.md").read_text()
    stored = read_results(PUBLISHED)
    for rate in (1e-5, 1e-4, 1e-3):
        (row,) = np.flatnonzero(stored.retained["bf16"]["rate"] == rate)
        cells = [f"{stored.retained['bf16']['exact'][row]:.4f}"]
        for arm in ("bf16", "stochastic", "compensated"):
            cells.append(f"{stored.retained[arm]['weights'][row]:.4f}")
        assert f"| {rate:g} | {' | '.join(cells)} |" in page
    fixed, plain = (
        max(
            (gap for gap in gaps(stored) if gap.arm in arms),
            key=lambda gap: abs(gap.differences[SIZE].mean),
        )
        for arms in (FIXES, (PLAIN,))
    )
    text = " ".join(page.split())
    size = abs(fixed.differences[SIZE].mean)
    assert f"within {size:.1f} % of the float32 run's weight norm" in text
    size, accuracy = (plain.differences[name].mean for name in (SIZE, ACCURACY))
    assert plain.weight_decay == 0
    assert f"norm is {-size:.0f} % smaller at λ = 0" in text
    assert f"has {accuracy:.1f} points more test accuracy" in text
