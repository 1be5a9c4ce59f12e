"""Replication on unused seeds: which verdicts hold, and which do not."""

import dataclasses
import functools
import json
import types

import numpy as np
import pytest
import simulated


pytestmark = pytest.mark.needs_extras
BETTER = {"adam": 0.80, "adam_l2": 0.84, "adamw": 0.90}


@functools.cache
def plan():
    from experiments.studies import demo

    return dataclasses.replace(
        demo.plan_of(demo.TASKS[:1]),
        rounds=1,
        screened=6,
        candidates=4,
        validation_seeds=10,
        final_seeds=12,
    )


def module():
    from experiments.studies import demo

    return types.SimpleNamespace(
        FULL=plan(), SMOKE=plan(), study=demo.study, write_report=demo.write_report
    )


@pytest.fixture
def finished(tmp_path):
    """A results directory with simulated runs."""
    from experiments.engine.study import hash_of
    from experiments.studies import demo

    study = demo.study(plan())
    table = simulated.table_of(study, simulated.valley(BETTER))
    folder = simulated.store(tmp_path / "before", study, table)
    change(folder, hash=hash_of(study), **made_now(study))
    return folder


def made_now(study):
    """Return the versions, device and code of this process."""
    from experiments import files
    from experiments.engine.code import code_hashes
    from experiments.engine.study import first_stage_functions

    module = type(study.plan).__module__
    return {
        **files.provenance(),
        "code": code_hashes(first_stage_functions(study), module, {}),
    }


def change(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_code(folder, **values):
    code = json.loads((folder / "manifest.json").read_text())["code"]
    change(folder, code=code | values)


def replicated(finished, tmp_path, heights, seeds=(1000, 1030)):
    """Replicate with new seeds that score by `heights`: study, verdict, report."""
    from experiments.reports.replication import study_of

    study, _ = study_of(module(), finished, seeds)
    table = simulated.table_of(study, simulated.valley(heights))
    folder = simulated.store(tmp_path / "again", study, table)
    return study, study.report(folder), (folder / "report.md").read_text()


def test_choices_and_runners_up_run_on_the_new_seeds(finished, tmp_path):
    from experiments import cells, protocol

    study, _, _ = replicated(finished, tmp_path, BETTER)
    assert study.name == "demo-replication"
    table = cells.read_csv(finished / "cells.csv")
    (stage,) = study.stages
    groups = stage.make({})
    for entry, group in zip(plan().entries, groups, strict=True):
        points = protocol.ranked_by_validation(plan(), entry, table)[:3]
        names = [axis.name for axis in entry.axes]
        asked = [(tuple(c[n] for n in names), c["seed"]) for c in group.cells]
        assert asked == [(p, seed) for p in points for seed in range(1000, 1030)]
        assert group.config == entry.config
    assert stage.runs == sum(len(group.cells) for group in groups) == 3 * 3 * 30


def test_the_same_truth_gives_the_same_verdicts(finished, tmp_path):
    _, verdict, report = replicated(finished, tmp_path, BETTER)
    assert verdict == "Verdict. 3 of 3 verdicts hold."
    assert "on seeds 1000 to 1029" in report
    assert report.count("| holds |") == 3


@pytest.mark.parametrize(
    ("heights", "words"),
    [
        ({"adamw": 0.84}, "adamw − adam_l2` does not hold: no difference shown"),
        ({"adamw": 0.80}, "adamw − adam_l2` does not hold: adam_l2 clearly better"),
    ],
)
def test_another_truth_gives_other_verdicts(heights, words, finished, tmp_path):
    _, verdict, report = replicated(finished, tmp_path, BETTER | heights)
    assert words in verdict
    assert "3 of 3" not in verdict
    assert "| does not hold: " in report


def test_a_difference_that_is_clear_only_now_does_not_hold(tmp_path):
    from experiments import outcomes, replication
    from experiments.statistics import holm

    study = _even()
    score = simulated.valley(dict.fromkeys(BETTER, 0.8))
    table = simulated.table_of(study, score)
    assert not any(each.sign for each in outcomes.compare_contrasts(plan(), table))
    again = replication.plan_of(plan(), table, "abc", (100, 130))
    new = _new(again, simulated.valley(BETTER))
    found = replication.compare(plan(), table, again.points, new)
    assert [each.holds for each in found] == [False] * 3
    alone = [_p_of_choices(each, new, again.points) for each in found]
    assert [each.p_holm for each in found] == pytest.approx(holm(alone))
    assert found[0].p_holm > alone[0]
    assert found[0].outcome == "shown only now: adamw clearly better"


def _p_of_choices(each, new, points):
    """Return p of one contrast, for the chosen points."""
    from experiments.statistics import estimate

    total = 0.0
    for name, weight in each.contrast.terms:
        chosen = new["arm"] == name.split()[-1]
        chosen &= new["learning_rate"] == points[name][0][-1]
        if len(points[name][0]) == 2:
            chosen &= new["weight_decay"] == points[name][0][0]
        total = total + weight * new["test_accuracy"][chosen]
    return estimate(total).p


def _even():
    from experiments.studies import demo

    return demo.study(plan())


def _new(again, score):
    from experiments import replication

    study = replication.study("again", again, plan(), lambda folder: "")
    return simulated.table_of(study, score)


def test_the_reach_covers_all_choices_among_the_points():
    from experiments import outcomes, replication

    table = simulated.table_of(_even(), simulated.valley(BETTER))
    again = replication.plan_of(plan(), table, "abc", (100, 130))
    found = replication.compare(
        plan(), table, again.points, _new(again, simulated.valley(BETTER))
    )
    new = _new(again, simulated.valley(BETTER))
    for each in found:
        (one, _), (other, _) = each.contrast.terms
        means = {}
        for name in (one, other):
            arm = name.split()[-1]
            mine = {n: x[new["arm"] == arm] for n, x in new.items()}
            keys = list(zip(mine["weight_decay"], mine["learning_rate"], strict=True))
            scores = {point: [] for point in keys}
            for point, score in zip(keys, mine["test_accuracy"], strict=True):
                scores[point].append(100 * score)
            means[name] = [np.mean(each) for each in scores.values()]
        differences = [a - b for a in means[one] for b in means[other]]
        assert each.reach == pytest.approx((min(differences), max(differences)))
    assert outcomes.compare_contrasts(plan(), table)[0].sign == 1


def test_a_difference_whose_sign_depends_on_the_choice_is_not_clear():
    from experiments import outcomes, replication

    table = simulated.table_of(_even(), simulated.valley(BETTER))
    again = replication.plan_of(plan(), table, "abc", (100, 130))
    new = _new(again, simulated.valley(BETTER))
    (first, *_) = replication.compare(plan(), table, again.points, new)
    assert (first.sign, first.outcome) == (1, "holds")
    # Make a runner-up of the better arm the worst point of all.
    decay, rate = again.points["unlike scales adamw"][1]
    runner = (new["arm"] == "adamw") & (new["weight_decay"] == decay)
    runner &= new["learning_rate"] == rate
    new["test_accuracy"] = np.where(runner, 0.5, new["test_accuracy"])
    (now, *_) = replication.compare(plan(), table, again.points, new)
    assert now.now == first.now
    assert now.outcome == "does not hold: no difference shown"
    assert outcomes.compare_contrasts(plan(), table)[0].sign == 1


def test_results_of_other_code_versions_and_devices_are_named(finished, tmp_path):
    from experiments import files
    from experiments.reports.replication import study_of

    assert study_of(module(), finished, (1000, 1030))[1] == []
    assert "made with other" not in replicated(finished, tmp_path, BETTER)[2]
    change_code(finished, **{"experiments.gone": "0"})  # only the old run used it
    assert study_of(module(), finished, (1000, 1030))[1] == []
    now = files.provenance()
    change_code(finished, **{"experiments.arms": "0"})
    change(
        finished,
        versions=now["versions"] | {"jax": "0.0.1"},
        device=now["device"] | {"count": 64},
    )
    _, other = study_of(module(), finished, (1000, 1030))
    versions, device, code = other
    assert versions.startswith("versions (jax 0.0.1, now ")
    assert device.startswith("device (count 64, now ")
    assert code == "code (experiments.arms)"
    report = replicated(finished, tmp_path, BETTER)[2]
    words = f"It was made with other {' and other '.join(other)}. So the difference"
    assert words in report


def test_code_is_compared_for_the_module_of_the_results(finished, monkeypatch):
    from experiments.reports import replication

    asked = []
    monkeypatch.setattr(
        replication,
        "code_hashes",
        lambda _, module, sources: asked.append(module) or {},
    )
    replication.study_of(module(), finished, (1000, 1030))
    assert asked == [type(plan()).__module__]  # not experiments.replication


def test_other_code_is_refused_before_anything_runs(finished, tmp_path, monkeypatch):
    from experiments import running
    from experiments.arguments import Options
    from experiments.engine import manifest
    from experiments.errors import UserError

    started = []
    monkeypatch.setattr(running, "_study_of", lambda *_: module())
    monkeypatch.setattr(running, "run_built", lambda study, *_: started.append(study))
    options = Options(out=tmp_path)
    mixed = dataclasses.replace(options, mix_revisions=True)

    def replicate(options):
        started.clear()
        running.replicate(str(finished), (1000, 1030), options)
        return len(started)

    assert replicate(options) == 1
    change_code(finished, **{"experiments.arms": "0"})
    words = r"with other code \(experiments.arms\). Run .* with --mix-revisions"
    with pytest.raises(UserError, match=words):
        replicate(options)
    assert started == []
    assert replicate(mixed) == 1
    monkeypatch.setattr(manifest, "is_finished", lambda folder: True)
    assert replicate(options) == 1  # a finished one is shown


def test_seeds_that_were_used_are_refused(finished):
    from experiments.errors import UserError
    from experiments.reports.replication import study_of

    used = plan().seeds("final").stop
    with pytest.raises(
        UserError, match=rf"to {used - 1}. Pass seeds that begin at {used} or later\.$"
    ):
        study_of(module(), finished, (used - 1, 1030))
    study_of(module(), finished, (used, used + 10))


def test_results_of_another_plan_are_refused(finished):
    from experiments.errors import UserError
    from experiments.reports.replication import study_of

    other = module()
    other.FULL = other.SMOKE = dataclasses.replace(plan(), candidates=5)
    with pytest.raises(UserError, match="another plan now. Check out the revision"):
        study_of(other, finished, (1000, 1030))


@pytest.mark.parametrize("text", ["1000", "1000:1005", "a:b", "30:20", "", "-5:20"])
def test_a_span_of_seeds(text):
    from experiments.cli import parse_seeds
    from experiments.errors import UserError

    assert parse_seeds("1000:1030") == (1000, 1030)
    with pytest.raises(UserError, match="write A:B with ten seeds or more"):
        parse_seeds(text)


def test_the_smallest_span_has_ten_seeds():
    from experiments.cli import parse_seeds
    from experiments.errors import UserError

    assert parse_seeds("1000:1010") == (1000, 1010)
    with pytest.raises(UserError, match="ten seeds or more"):
        parse_seeds("1000:1009")


def test_claims_of_a_study_without_the_protocol(tmp_path):
    from experiments.reports.replication import write_claims

    study = _even()
    table = simulated.table_of(study, simulated.valley(BETTER))
    before, now = (simulated.store(tmp_path / n, study, table) for n in "ab")
    claims = {before: {"x": "one", "y": "two"}, now: {"x": "one", "y": "three"}}
    verdict = write_claims(claims.get, before, (7, 17), now)
    assert verdict == (
        "Verdict. 1 of 2 verdicts hold. The others: `y` does not hold: three."
    )
    text = (now / "report.md").read_text()
    assert "| y | two | does not hold: three |" in text
    assert "made with other" not in text
    del claims[now]["y"]
    verdict = write_claims(claims.get, before, (7, 17), now, ["code (a)", "device"])
    assert "`y` does not hold: not claimed." in verdict
    text = (now / "report.md").read_text()
    assert "It was made with other code (a) and other device. So" in text


def test_the_last_line_has_the_command(finished, tmp_path):
    report = replicated(finished, tmp_path, BETTER)[2]
    last = "Files: `cells.csv`, `manifest.json`. Made by `made up`."
    assert report.splitlines()[-1] == last


def test_a_truncated_table_is_not_replicated(finished):
    from experiments.errors import UserError
    from experiments.reports.replication import study_of

    path = finished / "cells.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="rows, but manifest.json says"):
        study_of(module(), finished, (1000, 1030))


def test_too_few_final_seeds_have_no_verdicts(finished):
    from experiments.engine.study import hash_of
    from experiments.errors import UserError
    from experiments.reports.replication import study_of

    few = module()
    few.FULL = few.SMOKE = dataclasses.replace(plan(), final_seeds=9)
    described = json.loads((finished / "manifest.json").read_text())["plan"]
    change(
        finished,
        hash=hash_of(few.study(few.FULL)),
        plan=described | {"final_seeds": 9},
    )
    with pytest.raises(
        UserError, match="has 9 final seeds, too few for a verdict: run"
    ):
        study_of(few, finished, (1000, 1030))


@dataclasses.dataclass(frozen=True)
class Measured:
    chunk: int = 1


@dataclasses.dataclass(frozen=True)
class Seeded(Measured):
    seeds: int = 3


@dataclasses.dataclass(frozen=True)
class Fresh(Seeded):
    first_seed: int = 5


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Measured, "the plan of tiny has no first_seed and no seeds, so it cannot"),
        (Seeded, "has no first_seed, so it cannot .* the fields first_seed and seeds"),
        (Fresh, None),
    ],
)
def test_a_plan_that_cannot_run_on_other_seeds(kind, words, tmp_path):
    from experiments.engine.study import hash_of, Stage, Study
    from experiments.errors import UserError
    from experiments.reports.replication import study_of

    def study(plan):
        return Study("tiny", plan, (Stage("all", 0, lambda _: []),), lambda _: "")

    tiny = types.SimpleNamespace(
        FULL=kind(), SMOKE=kind(), study=study, claims=lambda folder: {}
    )
    folder = simulated.store(tmp_path, study(kind()), {"seed": np.arange(3)})
    change(folder, hash=hash_of(study(kind())), **made_now(study(kind())))
    if words is None:
        again, other = study_of(tiny, folder, (8, 20))
        assert (again.plan, again.name) == (Fresh(1, 12, 8), "tiny-replication")
        assert other == []
        return
    with pytest.raises(UserError, match=words):
        study_of(tiny, folder, (1000, 1030))
