"""The numbers of the report of `strength`, from the files of a run."""

from pathlib import Path
from typing import NamedTuple

from experiments import cells, optima, strengths
from experiments.engine.store import read_manifest
from experiments.reports.results import read_table
from experiments.strengths import Place, Regret, Trend, TunedTask


class Numbers(NamedTuple):
    """The files of a run, reduced."""

    table: cells.Table
    tasks: list[TunedTask]
    places: dict[str, list[Place]]  # by task
    trends: list[Trend]
    regrets: list[Regret]
    seeds: dict[str, int]  # by task

    @property
    def has_intervals(self) -> bool:
        """Whether every task has enough seeds for intervals."""
        return min(self.seeds.values()) >= optima.MIN_SEEDS


def read_numbers(folder: Path) -> Numbers:
    """Read cells.csv and manifest.json."""
    manifest = read_manifest(folder)
    table = read_table(folder, manifest)
    tasks = [strengths.task_from_manifest(x) for x in manifest["plan"]["tasks"]]
    found = {task.name: strengths.places(table, task) for task in tasks}
    seeds = {
        task.name: strengths.count_seeds(
            strengths.losses_of(table, task, task.settings[0])
        )
        for task in tasks
    }
    regrets = [regret for task in tasks for regret in strengths.regrets(table, task)]
    trends = strengths.trends(table, tasks)
    return Numbers(table, tasks, found, trends, regrets, seeds)


def name_of(regret: Regret) -> str:
    """The setting of a regret."""
    return "mean" if regret.setting is None else regret.setting.name
