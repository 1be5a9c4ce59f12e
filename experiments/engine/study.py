"""A study: stages of cells that are trained, and of pieces that are measured.

A study asks one question. Its stages follow one another, as the second may need what
the first has found; the cells of a stage need nothing of one another.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import cells
from experiments.engine import manifest as manifests, session, store as stores, workshop
from experiments.engine.chunks import Bar, Piece
from experiments.engine.code import Sources
from experiments.engine.describe import describe, digest
from experiments.engine.plan import Block, Recipe
from experiments.engine.session import Missing as Missing
from experiments.engine.wanted import (
    parse_shard as parse_shard,
    Shard as Shard,
    WHOLE as WHOLE,
)


WEEK = 7 * 24 * 3600.0  # seconds


class Stage(NamedTuple):
    """Blocks, whose cells are trained, and pieces, which are measured."""

    name: str
    runs: int  # at most; a measurement is not a run
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

    @property
    def size(self) -> str:
        """In words."""
        return f"at most {self.runs} runs" if self.runs else "measurements"


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


def made_with(study: Study) -> list[Any]:
    """The functions behind the first stage, and the data that hold them."""
    return [
        (item.static, item.keep) if isinstance(item, Block) else item.make
        for item in study.stages[0].make({})
    ]


def new_manifest(
    study: Study, shop: workshop.Workshop, command: str, sources: Sources | None = None
) -> dict[str, Any]:
    """What is known before the first run; it loads the data to note their checksums."""
    module, read = type(study.plan).__module__, {} if sources is None else sources
    return {
        "format": manifests.FORMAT,
        "study": study.name,
        "file": study.file,
        "hash": hash_of(study),
        "command": command,
        **manifests.origin_of(shop, module, made_with(study), recipes_of(study), read),
        "plan": describe(study.plan),
        "chunk": study.plan.chunk,
        "stages": {stage.name: stage.runs for stage in study.stages},
        "runs": study.runs,
    }


def _making(study: Study, sources: Sources) -> session.Making:
    return session.Making(type(study.plan).__module__, recipes_of(study), sources, {})


def run(
    study: Study,
    out: Path,
    command: str,
    bar: Bar,
    *,
    resume: bool = False,
    shard: Shard = WHOLE,
    wait: float = WEEK,
    mix_revisions: bool = False,
) -> tuple[Path, Missing | None]:
    """Train what is missing of this shard's cells, stage by stage.

    Args:
        study: what is asked; its results go to `out`.
        command: what a person wrote, for the manifest; `bar` is what they see.
        resume: go on with a directory that has been begun.
        shard: the cells that this process trains; it waits for the others.
        wait: for how many seconds at most, in each stage.
        mix_revisions: use cells that other code, versions, devices or data made.

    Returns:
        The results directory, and what is missing of other shards. If nothing is, the
        directory has its table and its final manifest.
    """
    shop, sources, folder = workshop.workshop(), Sources(), folder_of(study, out)
    bar.say("loading the data")
    manifest = new_manifest(study, shop, command, sources)
    resume = resume or shard.count > 1
    store = stores.open_store(folder, manifest, resume, mix_revisions)
    asked = session.Asked(study.plan.chunk, shard, wait, mix_revisions)
    this = session.Session(shop, store, bar, asked, _making(study, sources), {})
    rows: list[stores.Arrays] = []
    for stage in study.stages:
        made = session.make(this, stage.name, stage.make(cells.from_pieces(rows)))
        if isinstance(made, Missing):
            return folder, made
        rows += made
    session.finish(this, rows)
    return folder, None
