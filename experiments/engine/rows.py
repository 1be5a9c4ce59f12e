"""From stored cells to the rows of the table, with labels and in the plan's order."""

import collections
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.engine.assignment import cell_digest, config_digest, python_hparams
from experiments.engine.config import SweepGroup
from experiments.engine.store import Arrays, Store


def table_rows(store: Store, groups: Sequence[SweepGroup]) -> list[Arrays]:
    """Read the cells of the groups, in their order.

    Returns:
        A list of parts. A part has cells of one group that are next to each other in
        the plan and are stored in one file. Its arrays are those of the file for these
        cells, and `label/NAME` of the group, `epoch` of the measures, `file` and `row`.
    """
    return [part for group in groups for part in _parts(store, group)]


def _parts(store: Store, group: SweepGroup) -> Iterator[Arrays]:
    config = config_digest(group)
    cells = [
        (*store.locations[cell_digest(config, hparams)], hparams)
        for hparams in python_hparams(group)
    ]
    for file, same_file in itertools.groupby(cells, lambda cell: cell[0]):
        # From triples (file, row, hyper-parameters) to columns.
        _, rows, hparams = zip(*same_file, strict=True)
        row = np.array(rows)
        part = {f"label/{n}": np.array(text) for n, text in group.labels.items()}
        part |= {f"cell/{n}": np.array([hp[n] for hp in hparams]) for n in hparams[0]}
        for name, array in store.chunks[file].items():
            if name.startswith(("measure/", "extract/")) or name == "diverged_at":
                part[name] = array[row]
        # With curves a cell has several measurements at equal distances.
        count = part["measure/diverged"].shape[1]
        epoch = np.arange(1, count + 1) * group.config.epochs // count
        yield part | {"epoch": epoch, "file": np.array(file), "row": row}


def files_used(
    rows: Sequence[Arrays], store: Store, names: Sequence[str]
) -> list[tuple[Arrays, float]]:
    """Return the files with these names, and the fraction of each that is used."""
    # A set, because two groups may use one cell.
    cells = {(part["file"].item(), row) for part in rows for row in part["row"]}
    counts = collections.Counter(name for name, _ in cells)
    found: list[tuple[Arrays, float]] = []
    for name in names:
        if name in store.chunks:
            chunk = store.chunks[name]
            found.append((chunk, counts[name] / len(chunk["diverged_at"])))
        else:
            found.append((store.measurements[name], 1.0))
    return found
