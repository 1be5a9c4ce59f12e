"""Stages of pieces: what is missing is made, by one process or by many.

A study asks one question. Its stages follow one another, as the second may need what
the first has found; the pieces of a stage need nothing of one another. Piece j of a
stage is made by shard j mod n.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import cells, files
from experiments.data.checksum import checksum
from experiments.engine import store as stores, workshop
from experiments.engine.chunks import Bar, Piece, pieces_of
from experiments.engine.describe import describe, digest
from experiments.engine.plan import Block, Recipe
from experiments.problem import Problem


class Stage(NamedTuple):
    """Blocks, whose cells are trained, and other pieces, which are measured."""

    name: str
    runs: int
    make: Callable[[cells.Table], Sequence[Block | Piece]]  # from the stages before


class Study(NamedTuple):
    """One question: what is run, and what is made of it."""

    name: str
    plan: Any  # frozen dataclass: all numbers that decide the results, and `chunk`
    stages: tuple[Stage, ...]
    report: Callable[[Path], str]  # writes report and figures; the verdict
    recipes: tuple[Recipe, ...] = ()  # of pieces that are no blocks
    file: str | None = None  # outside the package: its place, seen from its results

    @property
    def runs(self) -> int:
        """Of all stages."""
        return sum(stage.runs for stage in self.stages)


class Shard(NamedTuple):
    """This process makes every `count`-th piece."""

    index: int
    count: int


class Missing(NamedTuple):
    """What the other shards have still to make before this one can go on."""

    stage: str
    pieces: int


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


def hash_of(study: Study) -> str:
    """Changes with any number of the plan and any cell of the first stage."""
    first = [
        describe(item) if isinstance(item, Block) else item.name
        for item in study.stages[0].make({})
    ]
    return digest(
        {
            "study": study.name,
            "plan": study.plan,
            "first stage": first,
        }
    )


def folder_of(study: Study, out: Path) -> Path:
    """Where the results of this plan go."""
    return out / study.name / hash_of(study)


def recipes_of(study: Study) -> list[Recipe]:
    """What is trained: by the blocks of the first stage, or as the study says."""
    blocks = [b for b in study.stages[0].make({}) if isinstance(b, Block)]
    return [block.static.recipe for block in blocks] + list(study.recipes)


def data_name(recipe: Recipe) -> str:
    """Where a recipe's data come from."""
    source = describe(recipe.data)
    return source if isinstance(source, str) else json.dumps(source)


def new_manifest(study: Study, shop: workshop.Workshop, command: str) -> dict[str, Any]:
    """What is known before the first run; it loads the data to note their checksums."""
    recipes = {digest(recipe): recipe for recipe in recipes_of(study)}
    return {
        "format": stores.FORMAT,
        "study": study.name,
        "file": study.file,
        "hash": hash_of(study),
        "command": command,
        **files.provenance(),
        "data": {
            data_name(recipe): checksum(workshop.data_of(shop, recipe))
            for recipe in recipes.values()
        },
        "plan": describe(study.plan),
        "chunk": study.plan.chunk,
        "stages": {stage.name: stage.runs for stage in study.stages},
        "runs": study.runs,
    }


def preview(study: Study, out: Path) -> str:
    """What would be run, where to, and what of it is there."""
    folder = folder_of(study, out)
    shop = workshop.workshop()
    first = study.stages[0]
    pieces = _pieces(study, first, {})
    blocks = [item for item in first.make({}) if isinstance(item, Block)]
    devices = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    lines = [
        f"{study.name}, plan {hash_of(study)}: {study.runs} runs, "
        f"{study.plan.chunk} side by side on {devices}",
        *(f"  {stage.name}: {stage.runs} runs" for stage in study.stages),
        f"{len({digest(block.static) for block in blocks})} programs to compile, "
        f"{len(pieces)} pieces of {first.name}",
    ]
    recipes = {data_name(recipe): recipe for recipe in recipes_of(study)}
    for name, recipe in recipes.items():
        try:
            workshop.data_of(shop, recipe)
            there = "there"
        except Problem as problem:
            there = str(problem)
        lines.append(f"data {name}: {there}")
    done = len(list(folder.glob("*.npz")))
    state = "nothing there yet"
    if (folder / "report.md").exists():
        state = "finished"
    elif done:
        state = f"{done} pieces there"
    return "\n".join([*lines, f"results in {folder}: {state}"])


def run(
    study: Study,
    out: Path,
    command: str,
    bar: Bar,
    resume: bool = False,
    shard: Shard = WHOLE,
) -> tuple[Path, Missing | None]:
    """Make what is missing of this shard's pieces, stage by stage.

    Returns:
        The results directory, and what other shards have still to make; once nothing
        is missing, the directory has its cells.csv and its final manifest.
    """
    shop = workshop.workshop()
    bar.say("loading the data")
    manifest = new_manifest(study, shop, command)
    folder = folder_of(study, out)
    store = stores.open_store(folder, manifest, resume or shard.count > 1)
    made: list[dict[str, np.ndarray]] = []
    for stage in study.stages:
        pieces = _pieces(study, stage, cells.from_pieces(made))
        for number, piece in enumerate(pieces):
            if number % shard.count != shard.index:
                continue
            if stores.has(store, piece):
                bar.advance(piece.runs)
            else:
                stores.save(store, piece, *_made(piece, shop, bar))
        missing = sum(not stores.has(store, piece) for piece in pieces)
        if missing:
            return folder, Missing(stage.name, missing)
        made += [stores.load(store, piece) for piece in pieces]
    files.write_json(folder / "manifest.json", _finished(folder, made))
    cells.write(folder / "cells.csv", cells.from_pieces(made))
    return folder, None


def _pieces(study: Study, stage: Stage, table: cells.Table) -> list[Piece]:
    pieces: list[Piece] = []
    for item in stage.make(table):
        if isinstance(item, Block):
            first = len(pieces)
            pieces += pieces_of(item, stage.name, first, study.plan.chunk)
        else:
            pieces.append(item)
    return pieces


def _made(
    piece: Piece, shop: workshop.Workshop, bar: Bar
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A piece's arrays, and what made them."""
    begun, compiled = time.perf_counter(), sum(shop.compiling)
    arrays = piece.make(shop, bar)
    compiling = sum(shop.compiling) - compiled
    running = time.perf_counter() - begun - compiling
    seconds = {"compile": round(compiling, 3), "run": round(running, 3)}
    return arrays, files.provenance() | {"seconds": seconds}


def _finished(folder: Path, made: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    """The manifest with what the pieces tell of their making."""
    origins = [json.loads(arrays["origin"].item()) for arrays in made]
    seconds = [origin.pop("seconds") for origin in origins]
    distinct = {json.dumps(origin, sort_keys=True): origin for origin in origins}
    runs = sum(len(arrays.get("diverged_at", ())) for arrays in made)
    widths = [int(arrays["width"]) for arrays in made if "width" in arrays]
    manifest = stores.read_manifest(folder)
    return manifest | {
        "runs": runs or manifest["runs"],
        "pieces": len(made),
        "seconds": {
            kind: round(sum(each[kind] for each in seconds), 1)
            for kind in ("compile", "run")
        },
        "cells side by side": sorted(set(widths)),
        "made by": list(distinct.values()),
    }
