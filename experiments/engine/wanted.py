"""Which cells a stage wants, each once, and which of them a process trains.

A cell is known by what its numbers depend on: its `Static`, what its block keeps, and
its own numbers. Labels and the width of a chunk are not part of it. So a larger grid,
more seeds, one more arm or another chunk need only the cells that are new.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from experiments.engine.describe import digest
from experiments.engine.plan import Block, Cell, columns
from experiments.problem import Problem


Item = TypeVar("Item")


class Shard(NamedTuple):
    """This process trains the cells of every `count`-th chunk."""

    index: int
    count: int


WHOLE = Shard(0, 1)


def parse_shard(text: str) -> Shard:
    """From "0/4" to the first of four.

    Raises:
        Problem: it is something else.
    """
    index, _, count = text.partition("/")
    if index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return Shard(int(index), int(count))
    raise Problem(f"--shard {text}: write i/n with 0 <= i < n, such as 0/4 to 3/4.")


class Pool(NamedTuple):
    """The cells that one program trains, of all blocks of a stage."""

    static: str  # digest of the block's static and keep
    block: Block  # the first that wants them
    cells: dict[str, Cell]  # by digest, in the order of the plan
    rows: dict[str, int]  # by digest: of the table; more than 1 if blocks share it


def static_of(block: Block) -> str:
    """The digest of what all cells of a block have in common."""
    return digest({"static": block.static, "keep": block.keep})


def cell_digest(static: str, cell: Cell) -> str:
    """The identity of a cell; its numbers as `numbers_of` gives them."""
    text = json.dumps([static, sorted(cell.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def chunk_digest(cells: Sequence[str]) -> str:
    """The name of the file that holds these cells."""
    return hashlib.sha256(" ".join(cells).encode()).hexdigest()[:12]


def numbers_of(block: Block) -> list[dict[str, Any]]:
    """The cells as Python's numbers: a column is whole numbers if all of it are."""
    whole = {n: x.dtype.kind == "i" for n, x in columns(block.cells).items()}
    return [
        {n: int(cell[n]) if whole[n] else float(cell[n]) for n in whole}
        for cell in block.cells
    ]


def pools_of(blocks: Sequence[Block]) -> list[Pool]:
    """What the blocks want, pooled by program."""
    found: dict[tuple[Any, ...], Pool] = {}
    for block in blocks:
        static = static_of(block)
        for cell in numbers_of(block) if block.cells else ():
            key = static, *sorted((name, type(x).__name__) for name, x in cell.items())
            pool = found.setdefault(key, Pool(static, block, {}, {}))
            name = cell_digest(static, cell)
            pool.cells.setdefault(name, dict(sorted(cell.items())))
            pool.rows[name] = pool.rows.get(name, 0) + 1
    return list(found.values())


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """At most `size` of them each, in order."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def share_of(pools: Sequence[Pool], size: int, shard: Shard) -> list[Pool]:
    """The cells that a shard trains, whether they are there already or not.

    It depends on the plan alone, so two shards never train the same cell. Chunks are
    dealt one after another: first the first chunk of each pool, then the second of
    each. More seeds add to the ends of the pools, so these are dealt evenly, too.
    """
    chunked = [list(chunks(list(pool.cells), size)) for pool in pools]
    dealt = sorted(
        (number, place)
        for place, each in enumerate(chunked)
        for number in range(len(each))
    )
    mine: dict[int, list[str]] = {}
    for number, place in dealt[shard.index :: shard.count]:
        mine.setdefault(place, []).extend(chunked[place][number])
    return [
        pools[place]._replace(cells={name: pools[place].cells[name] for name in names})
        for place, names in sorted(mine.items())
    ]
