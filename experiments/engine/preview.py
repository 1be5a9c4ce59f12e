"""What a run would do, printed before it is begun."""

from pathlib import Path

import jax

from experiments.engine import (
    assignment,
    compilation_cache,
    manifest as manifests,
    store as stores,
)
from experiments.engine.config import SweepGroup
from experiments.engine.describe import digest
from experiments.engine.study import folder_of, hash_of, setups_of, Study
from experiments.errors import UserError


def preview(study: Study, out: Path) -> str:
    """What would run, where to, and which cells are stored; nothing is written."""
    folder, cache = folder_of(study, out), compilation_cache.new_cache()
    first = study.stages[0]
    groups = [item for item in first.make({}) if isinstance(item, SweepGroup)]
    pools = assignment.pool_cells(groups)
    cells = {cell for pool in pools for cell in pool.cells}
    there = cells & stores.stored_cells(folder.parent / stores.CHUNKS)
    devices = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    lines = [
        f"{study.name}, plan {hash_of(study)}: {study.size}, "
        f"{study.plan.chunk} side by side on {devices}",
        *(f"  {s.name}: {s.runs or 'no'} runs" for s in study.stages),
        f"{len({digest(group.config) for group in groups})} programs to compile; "
        f"{len(there)} of {len(cells)} different cells of {first.name} are there",
    ]
    setups = {manifests.data_name(setup): setup for setup in setups_of(study)}
    for name, setup in setups.items():
        try:
            compilation_cache.load_data(cache, setup)
            answer = "there"
        except UserError as error:
            answer = str(error)
        lines.append(f"data {name}: {answer}")
    state = "nothing there yet"
    if manifests.is_finished(folder):
        state = "finished"
    elif manifests.is_begun(folder):
        state = "begun"
    return "\n".join([*lines, f"results in {folder}: {state}"])
