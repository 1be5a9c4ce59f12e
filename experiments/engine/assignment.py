"""Which cells a stage needs, each once, and which of them a shard trains.

The identity of a cell is what its numbers depend on: its `StaticConfig`, what its group
extracts, and its hyper-parameters. Labels and the size of a chunk are not part of it.
So a larger grid, more seeds, one more arm or another chunk size train new cells only.
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
    """This process trains the cells of every `count`-th chunk."""

    index: int
    count: int


ONLY_SHARD = Shard(0, 1)


def parse_shard(text: str) -> Shard:
    """From "0/4" to the first of four.

    Raises:
        UserError: the text is something else.
    """
    index, _, count = text.partition("/")
    if index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return Shard(int(index), int(count))
    raise UserError(f"--shard {text}: write i/n with 0 <= i < n, such as 0/4 to 3/4.")


class CellPool(NamedTuple):
    """The cells that one program trains, of all groups of a stage."""

    config: str  # digest of the group's config and extract
    group: SweepGroup  # the first one that has these cells
    cells: dict[str, HParams]  # by digest, in the order of the plan
    rows: dict[str, int]  # by digest: rows of the table; more than 1 if groups share it


def config_digest(group: SweepGroup) -> str:
    """The digest of what all cells of a group have in common."""
    return digest({"config": group.config, "extract": group.extract})


def cell_digest(config: str, hparams: HParams) -> str:
    """The identity of a cell; its numbers as `python_hparams` returns them."""
    text = json.dumps([config, sorted(hparams.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def chunk_digest(cells: Sequence[str]) -> str:
    """The name of the file with these cells."""
    return hashlib.sha256(" ".join(cells).encode()).hexdigest()[:12]


def python_hparams(group: SweepGroup) -> list[dict[str, Any]]:
    """The cells as Python numbers: a column is int if all of its values are."""
    if not group.cells:
        return []
    whole = {n: x.dtype.kind == "i" for n, x in columns(group.cells).items()}
    return [
        {n: int(hparams[n]) if whole[n] else float(hparams[n]) for n in whole}
        for hparams in group.cells
    ]


def pool_cells(groups: Sequence[SweepGroup]) -> list[CellPool]:
    """The cells of all groups, pooled by program."""
    found: dict[tuple[Any, ...], CellPool] = {}
    for group in groups:
        config = config_digest(group)
        for hparams in python_hparams(group):
            types = sorted((name, type(x).__name__) for name, x in hparams.items())
            pool = found.setdefault(
                (config, *types), CellPool(config, group, cells={}, rows={})
            )
            cell = cell_digest(config, hparams)
            pool.cells.setdefault(cell, dict(sorted(hparams.items())))
            pool.rows[cell] = pool.rows.get(cell, 0) + 1
    return list(found.values())


def split_in_chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive slices of at most `size` items."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def assign_to_shard(
    pools: Sequence[CellPool], size: int, shard: Shard
) -> list[CellPool]:
    """The cells that a shard trains, including those that are stored already.

    It depends on the plan only, so two shards never train the same cell. Chunks are
    dealt round-robin: first the first chunk of each pool, then the second of each.
    More seeds append to the pools, so their chunks are dealt evenly, too.
    """
    chunks = [list(split_in_chunks(list(pool.cells), size)) for pool in pools]
    dealt = sorted(
        (number, place)
        for place, each in enumerate(chunks)
        for number in range(len(each))
    )
    mine: dict[int, list[str]] = {}
    for number, place in dealt[shard.index :: shard.count]:
        mine.setdefault(place, []).extend(chunks[place][number])
    return [
        pools[place]._replace(cells={cell: pools[place].cells[cell] for cell in cells})
        for place, cells in sorted(mine.items())
    ]
