"""From stored cells to rows of the table: labels, and the order of the plan."""

import collections
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.engine.assignment import cell_digest, config_digest, python_hparams
from experiments.engine.config import SweepGroup
from experiments.engine.store import Arrays, Store


def table_rows(store: Store, groups: Sequence[SweepGroup]) -> list[Arrays]:
    """The cells of the groups in their order, each item from one file.

    Returns:
        The arrays of the file for these cells, with `label/NAME` of the group, `epoch`
        of the measures, and `file` and `row`: where they are stored.
    """
    return [rows for group in groups for rows in _rows_of(store, group)]


def _rows_of(store: Store, group: SweepGroup) -> Iterator[Arrays]:
    config = config_digest(group)
    cells = python_hparams(group)
    located = [(store.locations[cell_digest(config, hp)], hp) for hp in cells]
    for name, same_file in itertools.groupby(located, lambda each: each[0][0]):
        rows, hparams = zip(*((row, hp) for (_, row), hp in same_file), strict=True)
        row = np.array(rows)
        part = {f"label/{n}": np.array(text) for n, text in group.labels.items()}
        part |= {f"cell/{n}": np.array([hp[n] for hp in hparams]) for n in hparams[0]}
        for each, array in store.chunks[name].items():
            if each.startswith(("measure/", "extract/")) or each == "diverged_at":
                part[each] = array[row]
        count = part["measure/diverged"].shape[1]
        epoch = np.arange(1, count + 1) * group.config.epochs // count
        yield part | {"epoch": epoch, "file": np.array(name), "row": row}


def files_used(
    rows: Sequence[Arrays], store: Store, names: Sequence[str]
) -> list[tuple[Arrays, float]]:
    """The files with these names, each with the fraction of its cells that is used."""
    cells = {(part["file"].item(), row) for part in rows for row in part["row"]}
    counts = collections.Counter(name for name, _ in cells)
    return [
        (chunk, counts[name] / len(chunk["diverged_at"]))
        if (chunk := store.chunks.get(name)) is not None
        else (store.measurements[name], 1.0)
        for name in names
    ]
