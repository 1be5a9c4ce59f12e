"""One process of a study: it trains and measures its share of a stage, then waits.

A stored cell is used if it was made with the code, versions, devices and data that
would make it now. A missing cell is trained by the shard to which the plan assigns it.
"""

import functools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments import cells, files
from experiments.engine import assignment, manifest as manifests, store as stores
from experiments.engine.assignment import CellPool, Shard, split_in_chunks
from experiments.engine.code import Sources
from experiments.engine.compilation_cache import CompilationCache
from experiments.engine.config import SweepGroup, TrainingSetup
from experiments.engine.rows import files_used, table_rows
from experiments.engine.training import Measurement, Progress, train_chunk


POLL_SECONDS = 1.0  # between two searches for files of other shards


class RunOptions(NamedTuple):
    """How a process runs its study."""

    chunk: int  # number of parallel cells
    shard: Shard
    wait: float  # for other shards, in each stage; seconds
    mix_revisions: bool  # use files of other code, versions, devices or data


class CurrentProvenance(NamedTuple):
    """The provenance of numbers that are made now. It is computed when needed."""

    study: str  # the study's module
    setups: Sequence[TrainingSetup]  # of measurements
    sources: Sources
    found: dict[str, dict[str, Any]]  # by hash of a config, or name of a measurement


class Session(NamedTuple):
    """A process that runs a study."""

    cache: CompilationCache
    store: stores.Store
    progress: Progress
    options: RunOptions
    provenance: CurrentProvenance
    differences: dict[str, list[str]]  # by file: differences of its provenance


class MissingCells(NamedTuple):
    """Cells or measurements that other shards must finish first."""

    stage: str
    cells: int  # their number, measurements included


def run_stage(
    session: Session, stage: str, items: Sequence[SweepGroup | Measurement]
) -> list[stores.Arrays] | MissingCells:
    """Run a stage and return its rows, or the cells that are still missing.

    Raises:
        UserError: some files have another provenance, and `mix_revisions` is false.
    """
    groups = [item for item in items if isinstance(item, SweepGroup)]
    measurements = [item for item in items if isinstance(item, Measurement)]
    pools = assignment.pool_cells(groups)
    _check_provenance(session, stage, pools, measurements)
    chunk, shard = session.options.chunk, session.options.shard
    for pool in assignment.assign_to_shard(pools, chunk, shard):
        _train(session, stage, pool)
    for measurement in measurements[shard.index :: shard.count]:
        if measurement.name not in session.store.measurements:
            _measure(session, measurement)
    missing = _wait_for_shards(session, stage, pools, measurements)
    if missing is not None:
        return missing
    # Again, because files of other shards were read while waiting.
    _check_provenance(session, stage, pools, measurements)
    return table_rows(session.store, groups)


def _train(session: Session, stage: str, pool: CellPool) -> None:
    """Train the cells of a pool that are not stored."""
    absent = [cell for cell in pool.cells if cell not in session.store.locations]
    rows = sum(pool.rows[cell] for cell in pool.cells)
    # A run is a row of the table. Training advances by one for each absent cell; all
    # other rows are done already.
    session.progress.advance(rows - len(absent))
    labels = pool.group.labels
    names = [labels[name] for name in ("task", "arm") if name in labels]
    for chunk in split_in_chunks(absent, session.options.chunk):
        session.progress.set_description(" ".join([stage, *names]))
        chosen = {cell: pool.cells[cell] for cell in chunk}
        train = functools.partial(
            train_chunk,
            session.cache,
            pool.group,
            tuple(chosen.values()),
            session.options.chunk,
            session.progress,
        )
        arrays, provenance = _run_timed(session, pool, train)
        stores.save_cells(session.store, pool.config, chosen, arrays, provenance)


def _measure(session: Session, measurement: Measurement) -> None:
    """Make a measurement. It is not a run, so it does not move the progress bar."""

    def no_advance(runs: float) -> None:
        session.progress.advance(0)  # refreshes the bar and checks for signals

    progress = session.progress._replace(advance=no_advance)
    measure = functools.partial(measurement.measure, session.cache, progress)
    arrays, provenance = _run_timed(session, measurement, measure)
    stores.save_measurement(session.store, measurement, arrays, provenance)


def _run_timed(
    session: Session, item: CellPool | Measurement, make: Callable[[], stores.Arrays]
) -> tuple[stores.Arrays, dict[str, Any]]:
    """Make arrays. Return them and their provenance, with seconds."""
    seconds = session.cache.compile_seconds
    started, compiled_before = time.perf_counter(), sum(seconds)
    arrays = make()
    compiling = sum(seconds) - compiled_before
    running = time.perf_counter() - started - compiling
    taken = {"compile": round(compiling, 3), "run": round(running, 3)}
    return arrays, _provenance(session, item) | {"seconds": taken}


def _wait_for_shards(
    session: Session,
    stage: str,
    pools: Sequence[CellPool],
    measurements: Sequence[Measurement],
) -> MissingCells | None:
    """Wait until other shards have finished this stage, or the time is over."""
    deadline = time.monotonic() + session.options.wait
    store = session.store
    while True:
        missing = [
            cell for pool in pools for cell in pool.cells if cell not in store.locations
        ]
        missing += [
            measurement.name
            for measurement in measurements
            if measurement.name not in store.measurements
        ]
        count = len(missing)
        left = deadline - time.monotonic()
        if count == 0:
            return None
        if left <= 0:
            return MissingCells(stage, count)
        session.progress.set_description(f"waiting for {count} cells of other shards")
        time.sleep(min(POLL_SECONDS, left))
        stores.read_new_files(store)


def _provenance(session: Session, item: CellPool | Measurement) -> dict[str, Any]:
    """Return the provenance that cells or a measurement would have now."""
    current = session.provenance
    if isinstance(item, Measurement):
        key, values, setups = item.name, [item.measure], current.setups
    else:
        config, extract = item.group.config, item.group.extract
        key, values, setups = item.config, [config, extract], [config.setup]
    if key not in current.found:
        current.found[key] = manifests.current_provenance(
            session.cache, current.study, values, setups, current.sources
        )
    return current.found[key]


def _check_provenance(
    session: Session,
    stage: str,
    pools: Sequence[CellPool],
    measurements: Sequence[Measurement],
) -> None:
    """Compare the provenance of the stored files with the current one."""
    store = session.store
    stored: dict[str, tuple[CellPool | Measurement, stores.Arrays]] = {}
    for pool in pools:
        for cell in pool.cells:
            if cell in store.locations:
                name, _ = store.locations[cell]
                stored.setdefault(name, (pool, store.chunks[name]))
    for each in measurements:
        if each.name in store.measurements:
            stored[each.name] = each, store.measurements[each.name]
    for name, (item, arrays) in stored.items():
        if name not in session.differences:
            then, now = stores.stored_provenance(arrays), _provenance(session, item)
            session.differences[name] = manifests.differences(then, now)
    found = dict.fromkeys(  # distinct texts in order
        text for name in stored for text in session.differences[name]
    )
    if found and not session.options.mix_revisions:
        what = f"some runs of {stage} in {store.chunk_folder} were made"
        raise manifests.mixing_error(what, list(found))


def write_results(session: Session, rows: Sequence[stores.Arrays]) -> None:
    """Write the table, the arrays next to it, and the manifest with all provenances."""
    store, table = session.store, cells.from_chunks(rows)
    cells.write_arrays_of_runs(store.folder, rows)
    cells.write_csv(store.folder / "cells.csv", table)
    manifest = manifests.read_manifest(store.folder)
    manifest |= {"runs": len(table.get("diverged_at", ()))}
    manifest |= _summary_of_files(session, rows, manifest.get("code") or {})
    files.write_json(store.folder / "manifest.json", manifest)


def _summary_of_files(
    session: Session, rows: Sequence[stores.Arrays], code: dict[str, str]
) -> dict[str, Any]:
    """Return the entries of the manifest about the files with the rows."""
    store = session.store
    names = {part["file"].item() for part in rows} | set(store.measurements)
    # `differences` has every file that was checked, also one that is not used.
    differing = {n: texts for n, texts in session.differences.items() if n in names}
    used = files_used(rows, store, list(differing))
    provenances = [stores.stored_provenance(arrays) for arrays, _ in used]
    seconds = {"compile": 0.0, "run": 0.0}
    for provenance, (_, share) in zip(provenances, used, strict=True):
        for kind in seconds:
            seconds[kind] += provenance["seconds"][kind] * share
    parallel = {int(arrays["parallel"]) for arrays, _ in used if "parallel" in arrays}
    makers = [_made_by(provenance, code) for provenance in provenances]
    # Dictionaries have no hash, so distinct ones are found by their text.
    distinct = {json.dumps(maker, sort_keys=True): maker for maker in makers}
    summary: dict[str, Any] = {
        "seconds": {kind: round(value, 1) for kind, value in seconds.items()},
        "cells side by side": sorted(parallel),
        "made by": list(distinct.values()),
    }
    mixed = sorted({text for texts in differing.values() for text in texts})
    if mixed:
        summary["mixed"] = mixed
    return summary


def _made_by(provenance: dict[str, Any], code: dict[str, str]) -> dict[str, Any]:
    """Return a provenance for the manifest, with only the code that differs from it."""
    left_out = ("seconds", "data", "code")
    maker = {key: value for key, value in provenance.items() if key not in left_out}
    other = set(provenance["code"].items()) - set(code.items())
    if other:
        maker["other code"] = dict(sorted(other))
    return maker
