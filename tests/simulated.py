"""Simulated results: the groups of a study, with scores from a formula."""

import json
import os
import signal

import numpy as np


ARMS = ("adam", "adam_l2", "adamw", "adam_independent")


def table_of(study, score):
    """Return the runs of all stages; `score(labels, cell)` is (validation, test)."""
    from experiments import cells
    from experiments.engine.config import SweepGroup

    table = {}
    for stage in study.stages:
        groups = [item for item in stage.make(table) if isinstance(item, SweepGroup)]
        table = cells.concatenate([table, *(_runs(group, score) for group in groups)])
    return table


def _runs(group, score):
    labels = dict(group.labels)
    numbers = {
        name: [hparams[name] for hparams in group.cells] for name in group.cells[0]
    }
    found = np.array([score(labels, hparams) for hparams in group.cells])
    validation, test = np.round(300 * found[:, 0]) / 300, found[:, 1]
    # The engine stores the shortest decimals of float32.
    validation = validation.astype(np.float32).astype(str).astype(float)
    count = len(group.cells)
    return {
        **{name: np.full(count, text, object) for name, text in labels.items()},
        **{name: np.array(values) for name, values in numbers.items()},
        "val_accuracy": validation,
        "val_count": np.full(count, 300),
        "test_accuracy": test,
        "diverged": np.zeros(count, bool),
    }


def valley(heights, optima=None, slope=0.0, noise=0.005):
    """Return accuracies with the best value `heights[arm]` at `optima[arm]`.

    An optimum is (log2 λ, log2 γ). The best log2 λ moves with log2 γ by `slope`. The
    validation and the test part have the same mean.
    """
    optima = optima or {}

    def score(labels, hparams):
        arm = labels["arm"]
        y, x = optima.get(arm, (-3, -5))
        rate = np.log2(hparams["learning_rate"]) - x
        decay = np.log2(hparams["weight_decay"] or 2.0**y) - y - slope * rate
        drawn = np.random.default_rng(
            [
                hparams["seed"],
                ARMS.index(arm),
                round(8 * rate) + 999,
                round(8 * decay) + 999,
            ]
        ).normal(0, noise, 2)
        top = heights(labels, hparams) if callable(heights) else heights[arm]
        mean = max(top - 0.006 * (decay**2 + rate**2), 0.05)
        return mean + drawn[0], mean + drawn[1]

    return score


def store(folder, study, table):
    """Write a results directory with everything that a protocol's report reads."""
    from experiments import cells, files
    from experiments.engine.describe import describe
    from experiments.engine.store import FORMAT

    cells.write_csv(folder / "cells.csv", table)
    manifest = {
        "format": FORMAT,
        "study": study.name,
        "hash": "0123456789ab",
        "command": "made up",
        "plan": describe(study.plan),
        "device": {"count": 2, "kind": "cpu"},
        "versions": {"jax": "1"},
        "data": {},
        "runs": len(table["seed"]),
        "seconds": {"run": 1, "compile": 1},
        "cells side by side": [16],
        "made by": [{"git_revision": "abc", "git_changed": False}],
    }
    files.write_text(folder / "manifest.json", json.dumps(manifest))
    return folder


def store_measured(folder, plan, decades=None):
    """Write shrinks by the formulas, and spreads of √v; `decades` are by entry."""
    from experiments import files

    rng = np.random.default_rng(0)
    root_v = 10.0 ** rng.uniform(-4, -1, 100)
    for entry in plan.entries:
        labels = {**entry.labels, **entry.fixed, "entry": entry.name}
        labels = {name: np.array(value) for name, value in labels.items()}
        file = entry.name.replace(" ", "-")
        if entry.name in plan.shrinks:
            # The first step has a tenth of the L2 term, because of Adam's momentum.
            power = 0.1 / root_v if entry.labels["arm"] == "adam_l2" else 1 + 0 * root_v
            arrays = {"shrink": 0.01 * power, "root_v": root_v, "rate": np.array(0.01)}
            arrays |= {"rms_w": np.ones(100), "rms_g": np.ones(100)}
            arrays |= {"learning_rate": np.array(0.25), "weight_decay": np.array(0.5)}
            files.write_arrays(folder / f"shrink-{file}.npz", arrays | labels)
        if entry.name in plan.spreads:
            wide = (decades or {}).get(entry.name, 1.0)
            percentiles = 10.0 ** (wide / 80 * np.arange(101) - 5)
            arrays = {"root_v_percentiles": percentiles} | labels
            files.write_arrays(folder / f"spread-{file}.npz", arrays)


def run_shard(file, endings):
    """End as a shard: with an exit status, or killed; `endings` has an entry per start.

    The file gets a letter at each start.
    """
    with open(file, "a") as starts:
        starts.write("x")
    ending = endings[file.stat().st_size - 1]
    if ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return ending
