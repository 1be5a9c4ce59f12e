"""A process that makes its part of each stage: it trains, measures, or waits.

What is there is used, if it was made as it would be made now. What is missing is made
by the shard that it belongs to, which depends on the plan alone.
"""

import functools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments import cells, files
from experiments.engine import manifest as manifests, store as stores, wanted, workshop
from experiments.engine.chunks import Bar, Piece, train
from experiments.engine.code import Sources
from experiments.engine.plan import Block, Recipe
from experiments.engine.rows import rows_of, used_in
from experiments.engine.wanted import chunks, Pool, Shard


SECONDS_BETWEEN_LOOKS = 1.0
KINDS = ("compile", "run")  # of seconds


class Asked(NamedTuple):
    """What a process was asked to do."""

    chunk: int  # cells side by side
    shard: Shard
    wait: float  # seconds, in each stage
    mix: bool  # use what was made in another way


class Making(NamedTuple):
    """How things are made now, by pool or piece; found when it is needed."""

    study: str  # the study's module
    recipes: Sequence[Recipe]  # of measurements
    sources: Sources
    origins: dict[str, dict[str, Any]]


class Session(NamedTuple):
    """A process that runs a study."""

    shop: workshop.Workshop
    store: stores.Store
    bar: Bar
    asked: Asked
    making: Making
    others: dict[str, list[str]]  # by file: in what it was made in another way


class Missing(NamedTuple):
    """What the other shards have still to make before this one can go on."""

    stage: str
    cells: int  # or measurements


def make(
    session: Session, stage: str, items: Sequence[Block | Piece]
) -> list[stores.Arrays] | Missing:
    """The rows of a stage, once all its cells are there.

    Raises:
        Problem: some were made in another way, and are not to be mixed.
    """
    blocks = [item for item in items if isinstance(item, Block)]
    pieces = [item for item in items if isinstance(item, Piece)]
    pools = wanted.pools_of(blocks)
    _compare(session, stage, pools, pieces)
    for pool in wanted.share_of(pools, session.asked.chunk, session.asked.shard):
        _train(session, stage, pool)
    for piece in pieces[session.asked.shard.index :: session.asked.shard.count]:
        if not stores.has(session.store, piece):
            _measure(session, piece)
    if missing := _wait(session, stage, pools, pieces):
        return missing
    _compare(session, stage, pools, pieces)
    return rows_of(session.store, blocks)


def _train(session: Session, stage: str, pool: Pool) -> None:
    """The cells of a pool that are not there."""
    absent = [cell for cell in pool.cells if cell not in session.store.places]
    session.bar.advance(sum(pool.rows[cell] for cell in pool.cells) - len(absent))
    labels = pool.block.labels
    names = [labels[name] for name in ("task", "arm") if name in labels]
    for chunk in chunks(absent, session.asked.chunk):
        session.bar.say(" ".join([stage, *names]))
        chosen = {name: pool.cells[name] for name in chunk}
        call = functools.partial(
            train,
            session.shop,
            pool.block,
            tuple(chosen.values()),
            session.asked.chunk,
            session.bar,
        )
        arrays, origin = _timed(session, pool, call)
        stores.save_cells(session.store, pool.static, chosen, arrays, origin)


def _measure(session: Session, piece: Piece) -> None:
    """A measurement is not a run, and does not move the bar."""
    bar = session.bar._replace(advance=lambda _: session.bar.advance(0))
    made = _timed(session, piece, lambda: piece.make(session.shop, bar))
    stores.save_measured(session.store, piece, *made)


def _timed(
    session: Session, item: Pool | Piece, make: Callable[[], stores.Arrays]
) -> tuple[stores.Arrays, dict[str, Any]]:
    """What has been made, and what made it."""
    compiling = session.shop.compiling
    begun, compiled = time.perf_counter(), sum(compiling)
    arrays = make()
    compiled = sum(compiling) - compiled
    running = time.perf_counter() - begun - compiled
    seconds = {"compile": round(compiled, 3), "run": round(running, 3)}
    return arrays, _origin(session, item) | {"seconds": seconds}


def _wait(
    session: Session, stage: str, pools: Sequence[Pool], pieces: Sequence[Piece]
) -> Missing | None:
    """Until the other shards have made their part, or the time is over."""
    deadline = time.monotonic() + session.asked.wait
    places = session.store.places
    while True:
        count = sum(cell not in places for pool in pools for cell in pool.cells)
        count += sum(not stores.has(session.store, piece) for piece in pieces)
        left = deadline - time.monotonic()
        if count == 0:
            return None
        if left <= 0:
            return Missing(stage, count)
        session.bar.say(f"waiting for {count} cells of other shards")
        time.sleep(min(SECONDS_BETWEEN_LOOKS, left))
        stores.look(session.store)


def _origin(session: Session, item: Pool | Piece) -> dict[str, Any]:
    """What a pool's cells or a measurement would depend on, if they were made now."""
    if isinstance(item, Piece):
        key, values, recipes = item.name, [item.make], session.making.recipes
    else:
        static, keep = item.block.static, item.block.keep
        key, values, recipes = item.static, [static, keep], [static.recipe]
    if key not in session.making.origins:
        session.making.origins[key] = manifests.origin_of(
            session.shop, session.making.study, values, recipes, session.making.sources
        )
    return session.making.origins[key]


def _compare(
    session: Session, stage: str, pools: Sequence[Pool], pieces: Sequence[Piece]
) -> None:
    """See that what is there was made as it would be made now."""
    store = session.store
    there: dict[str, tuple[Pool | Piece, stores.Arrays]] = {}
    for pool in pools:
        for cell in pool.cells:
            if cell in store.places:
                name, _ = store.places[cell]
                there.setdefault(name, (pool, store.chunks[name]))
    for piece in pieces:
        if stores.has(store, piece):
            there[piece.name] = piece, store.measured[piece.name]
    for name, (item, arrays) in there.items():
        if name not in session.others:
            then = stores.origin_of(arrays)
            session.others[name] = manifests.differences(then, _origin(session, item))
    found = dict.fromkeys(text for name in there for text in session.others[name])
    if found and not session.asked.mix:
        what = f"some runs of {stage} in {store.pieces} were made"
        raise manifests.refusal(what, list(found))


def finish(session: Session, rows: Sequence[stores.Arrays]) -> None:
    """Write the table, what has no place in it, and the manifest with who made them."""
    store, table = session.store, cells.from_pieces(rows)
    manifest = manifests.read_manifest(store.folder)
    taken = {part["file"].item() for part in rows} | set(store.measured)
    others = {n: texts for n, texts in session.others.items() if n in taken}
    used = used_in(rows, store, list(others))
    origins = [stores.origin_of(arrays) for arrays, _ in used]
    shares = [share for _, share in used]
    seconds = {
        kind: sum(o["seconds"][kind] * x for o, x in zip(origins, shares, strict=True))
        for kind in KINDS
    }
    widths = {int(arrays["width"]) for arrays, _ in used if "width" in arrays}
    makers = [_maker(origin, manifest.get("code") or {}) for origin in origins]
    distinct = {json.dumps(maker, sort_keys=True): maker for maker in makers}
    mixed = sorted({text for texts in others.values() for text in texts})
    cells.write_more(store.folder, rows)
    cells.write(store.folder / "cells.csv", table)
    finished = {
        "runs": len(table.get("diverged_at", ())),
        "pieces": len(used),
        "seconds": {kind: round(value, 1) for kind, value in seconds.items()},
        "cells side by side": sorted(widths),
        "made by": list(distinct.values()),
        **({"mixed": mixed} if mixed else {}),
    }
    files.write_json(store.folder / "manifest.json", manifest | finished)


def _maker(origin: dict[str, Any], code: dict[str, str]) -> dict[str, Any]:
    """An origin as the manifest lists it: of its code what is not the manifest's."""
    other = dict(sorted(set(origin["code"].items()) - set(code.items())))
    left_out = ("seconds", "data", "code")
    maker = {key: value for key, value in origin.items() if key not in left_out}
    return maker | ({"other code": other} if other else {})
