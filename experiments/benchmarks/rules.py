"""What does each rule for λ lose on the published grids of `tuning`?

Question    A rule gives λ from the number of steps and epochs, or from nothing. How far
            is it from the best λ of the same learning rate, for AdamW?
Command     python -m experiments.benchmarks.rules
            (prints the table of docs/howto/how_strongly.md; nothing is trained)
Cost        seconds
Expected    No rule fits all three tasks.
Reference   Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, appendix B.1;
            Wang and Aitchison, https://arxiv.org/abs/2405.13698

Regret: the validation error at the λ of the rule minus the smallest of that learning
rate, in points. Between the points of the grid the error is interpolated in log λ; a λ
outside of the grid counts as its end. The learning rates are those whose best error is
within 3 points of the task's best. The same seeds choose and score: the regret of the
best λ is 0, and small regrets are noise.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from experiments import cells
from experiments.studies import tuning


GRIDS = Path(__file__).parents[1] / "results" / "tuning" / "cells.csv"
NEAR = 3.0  # points
ARM, STAGE = "adamw", "tuning"
# λ by (learning rate, steps, epochs).
RULES: dict[str, Callable[[float, int, int], float]] = {
    "λ = 0.01": lambda lr, steps, epochs: 0.01,
    "λ = 0.1": lambda lr, steps, epochs: 0.1,
    "λ = 1": lambda lr, steps, epochs: 1.0,
    "0.05/√steps": lambda lr, steps, epochs: 0.05 / math.sqrt(steps) / lr,
    "timescale: 1 epoch": lambda lr, steps, epochs: epochs / steps / lr,
    "timescale: √epochs": lambda lr, steps, epochs: math.sqrt(epochs) / steps / lr,
    "timescale: the run": lambda lr, steps, epochs: 1.0 / steps / lr,
    "timescale: a tenth": lambda lr, steps, epochs: 10.0 / steps / lr,
}


def rows_near_the_best(table: cells.Table) -> Iterator[tuple[float, list, list]]:
    """Learning rate, the λs of its grid and their mean errors in points."""
    errors = 100.0 * (1.0 - table["val_accuracy"].astype(float))
    rates, decays = (
        table[name].astype(float) for name in ("learning_rate", "weight_decay")
    )
    grid = {
        lr: {
            x: errors[(rates == lr) & (decays == x)].mean()
            for x in np.unique(decays[rates == lr])
        }
        for lr in np.unique(rates)
    }
    best = min(min(row.values()) for row in grid.values())
    for lr, row in grid.items():
        if min(row.values()) <= best + NEAR:
            yield lr, list(row), list(row.values())


def regrets(
    table: cells.Table, task: tuning.TuningTask
) -> dict[str, tuple[float, float]]:
    """Of each rule: the regret at the best learning rate, and the mean over all."""
    setup = task.setup
    steps = task.epochs * (setup.train_size // setup.batch)
    near = list(rows_near_the_best(table))
    best = min(range(len(near)), key=lambda i: min(near[i][2]))
    found = {}
    for rule, decay_of in RULES.items():
        lost = [
            np.interp(
                math.log(decay_of(lr, steps, task.epochs)), np.log(decays), errors
            )
            - min(errors)
            for lr, decays, errors in near
        ]
        found[rule] = float(lost[best]), float(np.mean(lost))
    return found


def tables() -> Iterator[tuple[tuning.TuningTask, cells.Table]]:
    """The tuning runs of AdamW on each task."""
    everything = cells.read_csv(GRIDS)
    for task in (tuning.FASHION, tuning.LAYERNORM, tuning.TEACHER):
        wanted = {"stage": STAGE, "arm": ARM, "task": task.name}
        chosen = np.all([everything[k] == v for k, v in wanted.items()], axis=0)
        yield task, {name: column[chosen] for name, column in everything.items()}


def main() -> None:
    """Print the table."""
    columns = {task.name: regrets(table, task) for task, table in tables()}
    print(f"| rule | {' | '.join(columns)} |")
    print(f"|---|{'--:|' * len(columns)}")
    for rule in RULES:
        pairs = (column[rule] for column in columns.values())
        print(f"| {rule} | {' | '.join(f'{a:.1f} / {b:.1f}' for a, b in pairs)} |")


if __name__ == "__main__":
    main()
