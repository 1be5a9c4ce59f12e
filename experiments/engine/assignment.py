"""Which cells a stage needs, each once, and which of them a shard trains.

The identity of a cell is a hash of everything that decides its numbers: its
`StaticConfig`, the arrays that its group extracts, and its hyper-parameters. Labels and
the chunk size are not part of it. So a larger grid, more seeds, another arm or another
chunk size train the new cells only.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from experiments.engine.config import columns, HParams, SweepGroup
from experiments.engine.describe import digest
from experiments.errors import UserError


Item = TypeVar("Item")


class Shard(NamedTuple):
    """A process that trains the cells of every `count`-th chunk, from `index` on."""

    index: int
    count: int


ONLY_SHARD = Shard(0, 1)


def parse_shard(text: str) -> Shard:
    """Parse "0/4", the first of four shards.

    Raises:
        UserError: the text has another form.
    """
    index, _, count = text.partition("/")
    if index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return Shard(int(index), int(count))
    raise UserError(f"--shard {text}: write I/N with 0 <= I < N, such as 0/4 or 3/4.")


class CellPool(NamedTuple):
    """The cells that one program trains, of all groups of a stage."""

    config: str  # hash of the group's config and extract
    group: SweepGroup  # the first group with these cells
    cells: dict[str, HParams]  # by hash, in the order of the plan
    rows: dict[str, int]  # by hash: how many rows of the table show the cell


def config_digest(group: SweepGroup) -> str:
    """Return the hash of what all cells of a group have in common."""
    return digest({"config": group.config, "extract": group.extract})


def cell_digest(config: str, hparams: HParams) -> str:
    """Return the identity of a cell; `hparams` are as `python_hparams` returns them."""
    text = json.dumps([config, sorted(hparams.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def chunk_digest(cells: Sequence[str]) -> str:
    """Return the name of the file with these cells."""
    return hashlib.sha256(" ".join(cells).encode()).hexdigest()[:12]


def python_hparams(group: SweepGroup) -> list[dict[str, Any]]:
    """Return the cells as Python numbers: int if all values of a column are, or float.

    Their text is part of the identity of a cell, so 1 and 1.0 must not differ.
    """
    if not group.cells:
        return []
    types = {
        name: int if column.dtype.kind == "i" else float
        for name, column in columns(group.cells).items()
    }
    return [
        {name: convert(hparams[name]) for name, convert in types.items()}
        for hparams in group.cells
    ]


def pool_cells(groups: Sequence[SweepGroup]) -> list[CellPool]:
    """Collect the cells of all groups, by the program that trains them."""
    found: dict[tuple[Any, ...], CellPool] = {}
    for group in groups:
        config = config_digest(group)
        for hparams in python_hparams(group):
            # The dtypes decide the program, too.
            types = sorted((name, type(x).__name__) for name, x in hparams.items())
            pool = found.setdefault(
                (config, *types), CellPool(config, group, cells={}, rows={})
            )
            cell = cell_digest(config, hparams)
            pool.cells.setdefault(cell, dict(sorted(hparams.items())))
            pool.rows[cell] = pool.rows.get(cell, 0) + 1
    return list(found.values())


def split_in_chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Split a sequence into slices of `size` items; the last one may be shorter."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def assign_to_shard(
    pools: Sequence[CellPool], size: int, shard: Shard
) -> list[CellPool]:
    """Return the cells that a shard trains, including those that are stored already.

    The result depends on the plan only, so two shards never train the same cell. Chunks
    are assigned round-robin: the first chunk of each pool, then the second one of each,
    and so on. More seeds are at the end of the pools, so their chunks are spread over
    all shards, too.
    """
    chunks = [list(split_in_chunks(list(pool.cells), size)) for pool in pools]
    order = sorted(
        (number, index)
        for index, pool_chunks in enumerate(chunks)
        for number in range(len(pool_chunks))
    )
    assigned: dict[int, list[str]] = {}  # by index of the pool
    for number, index in order[shard.index :: shard.count]:
        assigned.setdefault(index, []).extend(chunks[index][number])
    return [
        pools[index]._replace(cells={cell: pools[index].cells[cell] for cell in cells})
        for index, cells in sorted(assigned.items())
    ]
