"""The numbers of `leaderboard`: wins, best cells, the cost of wrong numbers.

The runs of a single entry are compared with the stored runs of the board.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import cells, joint, protocol, replication
from experiments.cells import Table
from experiments.engine import manifest as manifests
from experiments.engine.store import read_manifest
from experiments.errors import UserError
from experiments.outcomes import Comparison
from experiments.protocol import Entry, FINAL, ProtocolPlan, TUNING, VALIDATION
from experiments.replication import ReplicatedContrast, STAGE
from experiments.reports.replication import points_of
from experiments.reports.results import (
    correct_together,
    errors,
    read_table,
    Results,
    results_of,
)
from experiments.search import Point


PUBLISHED = Path(__file__).parents[1] / "results" / "leaderboard"
FACTOR = 4.0  # by which a number is wrong
BEST = 3  # cells of an entry in the report
# The first seed and the end of the seeds of a replication, as in the rules.
REPLICATED = (1000, 1030)


class Boards(NamedTuple):
    """The results of each board. The p-values are corrected over all of them."""

    results: dict[str, Results]
    added: tuple[str, ...]  # names of entries that are compared with a stored board
    # How the code, the versions and the device of the added entries differ from the
    # board's.
    differences: tuple[str, ...]
    # The contrasts on new seeds: those of the added entries, or of the board.
    again: tuple[ReplicatedContrast, ...]


class BestCell(NamedTuple):
    """Errors of a point on the seeds of validation."""

    point: Point
    validation: float
    deviation: float  # standard deviation of `validation` over the seeds
    test: float


# --- Reading ----------------------------------------------------------------------


def find_board(folder: Path, against: str) -> Path:
    """Return the results directory of the board that an entry is compared with.

    Args:
        folder: the results directory of the entry.
        against: the hash of the board's plan.

    Raises:
        UserError: there is no finished run of the board.
    """
    own = folder.parent / against
    for found in (own, PUBLISHED):
        if manifests.is_finished(found) and read_manifest(found)["hash"] == against:
            return found
    raise UserError(
        f"there is no finished board {own}, and no published one of this plan. Run "
        "python -m experiments leaderboard with the same options first, without "
        "--entry."
    )


def read_boards(folder: Path) -> Boards:
    """Read the files of a run, and for a single entry those of the board."""
    manifest = read_manifest(folder)
    table, plan = read_table(folder, manifest), manifest["plan"]
    plans = dict(joint.joint_from_manifest(plan).plans)
    added: list[str] = []
    differences: list[str] = []
    board = None
    if plan["against"]:
        board = find_board(folder, plan["against"])
        stored = read_manifest(board)
        differences = differences_from_board(stored, manifest)
        table = cells.concatenate([read_table(board, stored), table])
        others = joint.joint_from_manifest(stored["plan"]).plans
        for name, mine in plans.items():
            other = others[name]
            added += [entry.name for entry in mine.entries]
            plans[name] = dataclasses.replace(
                other,
                entries=(*other.entries, *mine.entries),
                contrasts=(*other.contrasts, *mine.contrasts),
            )
    found = {
        name: results_of(folder, manifest, each, table) for name, each in plans.items()
    }
    return Boards(
        correct_together(found),
        tuple(added),
        tuple(differences),
        replicated_board(folder, plans, table)
        if board is None
        else replicated_entries(board, plans, added, table),
    )


def replicated_board(
    board: Path, plans: Mapping[str, ProtocolPlan], table: Table
) -> tuple[ReplicatedContrast, ...]:
    """Compare the entries of a board on the seeds of its replication, if it has one."""
    again = find_replication(board)
    if again is None:
        return ()
    manifest = read_manifest(again)
    if tuple(manifest["plan"]["seeds"]) != REPLICATED:
        return ()
    points = points_of(manifest["plan"])
    new = read_table(again, manifest)
    return tuple(replication.compare(joint.JointPlan(plans=plans), table, points, new))


def replicated_entries(
    board: Path,
    plans: Mapping[str, ProtocolPlan],
    added: Collection[str],
    table: Table,
) -> tuple[ReplicatedContrast, ...]:
    """Compare the added entries with the baseline on the seeds of a replication.

    Args:
        board: the directory of the board.
        plans: the protocols of the board with the added entries.
        added: the names of the added entries.
        table: the runs of the board and of the added entries.

    Returns:
        One contrast for each added entry, corrected over them; empty if the board or
        the entries were not replicated.
    """
    again, seeds = find_replication(board), cells.where(table, stage=STAGE)["seed"]
    if again is None or len(seeds) == 0:
        return ()
    manifest = read_manifest(again)
    if manifest["plan"]["seeds"] != [int(seeds.min()), int(seeds.max()) + 1]:
        return ()
    pairs = {
        name: dataclasses.replace(
            plan,
            entries=tuple(
                x for x in plan.entries if x.name in added or _is_baseline(plan, x)
            ),
            contrasts=tuple(x for x in plan.contrasts if x.terms[0][0] in added),
        )
        for name, plan in plans.items()
    }
    together = joint.JointPlan(plans=pairs)
    # The choice of the baseline is made from the same runs as in its replication.
    points = replication.best_points(together, table)
    new = cells.concatenate(
        [read_table(again, manifest), cells.where(table, stage=STAGE)]
    )
    return tuple(replication.compare(together, table, points, new))


def _is_baseline(plan: ProtocolPlan, entry: Entry) -> bool:
    """Whether all contrasts compare with this entry."""
    return all(contrast.terms[1][0] == entry.name for contrast in plan.contrasts)


def find_replication(board: Path) -> Path | None:
    """Return the finished replication of a board, or None."""
    own = board.parents[1] / "leaderboard-replication"
    found = read_manifest(board)["hash"]
    for folder in (board / "replication", *sorted(own.glob("*"))):
        finished = manifests.is_finished(folder)
        if finished and read_manifest(folder)["plan"]["of"] == found:
            return folder
    return None


def differences_from_board(
    board: Mapping[str, Any], entry: Mapping[str, Any]
) -> list[str]:
    """Describe how the provenance of an entry differs from that of its board.

    Both are manifests. The files of the board's entries and the file of the new entry
    are in one manifest only, so they are not compared.
    """

    def shared(manifest: Mapping[str, Any]) -> dict[str, Any]:
        code = {n: manifest["code"][n] for n in board["code"].keys() & entry["code"]}
        return {**manifest, "code": code}

    return manifests.differences(shared(board), shared(entry))


# --- Numbers ----------------------------------------------------------------------


def ranking(results: Results) -> list[Comparison]:
    """The contrasts of a board, the best entry first."""
    order = sorted(results.comparisons.values(), key=lambda x: -x.difference.mean)
    return list(order)


def entry_in(results: Results, compared: Comparison) -> Entry:
    """The entry that a contrast compares with the baseline."""
    (name, _), _ = compared.contrast.terms
    return results.outcomes[name].entry


def is_sound(compared: Comparison) -> bool:
    """Whether the points of the entry and of AdamW are bracketed and not lucky.

    A clear difference without this is not a win: a point that was not tried may be
    better, or the choice may have been luck.
    """
    return not (compared.open or compared.lucky)


def best_cells(results: Results, entry: Entry) -> list[BestCell]:
    """The best points of an entry by validation; the first one is the choice."""
    plan, table, measure = results.plan, results.table, results.plan.measure
    decided = errors(results, entry, VALIDATION)
    tests = protocol.values(entry, table, VALIDATION, measure.reported)
    return [
        BestCell(
            point,
            float(decided[point].mean()),
            float(decided[point].std(ddof=1)),
            float(measure.perfect - measure.scale * tests[point].mean()),
        )
        for point in protocol.ranked_by_validation(plan, entry, table)[:BEST]
    ]


def regret(results: Results, entry: Entry, axis: str) -> float:
    """The mean rise of the validation error if a number is wrong by `FACTOR`.

    The error is that of tuning. The number is too small or too large; the other one is
    that of the chosen point. NaN if neither neighbour was tried.
    """
    names = [each.name for each in entry.axes]
    if axis not in names:
        return np.nan
    index, tried = names.index(axis), errors(results, entry, TUNING)
    point = tuple(results.outcomes[entry.name].choice[name] for name in names)
    factors = (1 / FACTOR, FACTOR)
    wrong = [
        (*point[:index], point[index] * factor, *point[index + 1 :])
        for factor in factors
    ]
    rises = [tried[x].mean() - tried[point].mean() for x in wrong if x in tried]
    return float(np.mean(rises)) if rises else np.nan


def arrivals(results: Results, entry: Entry) -> tuple[int, int]:
    """How many final runs arrived before their last step, and the number of runs."""
    rows = cells.where(results.table, stage=FINAL, **entry.labels)
    arrived = rows["arrived"].astype(float)
    return int(arrived.sum()), len(arrived)
