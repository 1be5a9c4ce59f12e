"""From stored cells to rows: labels, and the order of the plan."""

import collections
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.engine.plan import Block
from experiments.engine.store import Arrays, Store
from experiments.engine.wanted import cell_digest, numbers_of, static_of


def rows_of(store: Store, blocks: Sequence[Block]) -> list[Arrays]:
    """The cells of the blocks in their order, each part out of one file.

    Returns:
        What a file holds of them, with `label/NAME` of the block, `epoch` of the
        measures, and `file` and `place`: where they are from.
    """
    return [part for block in blocks for part in _rows_of(store, block)]


def _rows_of(store: Store, block: Block) -> Iterator[Arrays]:
    static, labels = static_of(block), block.labels.items()
    numbers = numbers_of(block) if block.cells else []
    places = [store.places[cell_digest(static, cell)] for cell in numbers]
    together = itertools.groupby(zip(places, numbers, strict=True), lambda x: x[0][0])
    for name, group in together:
        rows, cells = zip(*((row, cell) for (_, row), cell in group), strict=True)
        place = np.array(rows)
        part = {f"label/{n}": np.array(text) for n, text in labels}
        part |= {f"cell/{n}": np.array([cell[n] for cell in cells]) for n in cells[0]}
        for each, array in store.chunks[name].items():
            if each.startswith(("measure/", "keep/")) or each == "diverged_at":
                part[each] = array[place]
        count = part["measure/diverged"].shape[1]
        epoch = np.arange(1, count + 1) * block.static.epochs // count
        yield part | {"epoch": epoch, "file": np.array(name), "place": place}


def used_in(
    rows: Sequence[Arrays], store: Store, names: Sequence[str]
) -> list[tuple[Arrays, float]]:
    """The files with these names, each with the share of its cells that is in rows."""
    cells = {(part["file"].item(), place) for part in rows for place in part["place"]}
    counts = collections.Counter(name for name, _ in cells)
    return [
        (chunk, counts[name] / len(chunk["diverged_at"]))
        if (chunk := store.chunks.get(name)) is not None
        else (store.measured[name], 1.0)
        for name in names
    ]
