"""What a run would do, for `--dry-run`."""

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
from experiments.engine.study import folder_of, hash_of, setups_of, Stage, Study
from experiments.errors import UserError


def preview(study: Study, out: Path) -> str:
    """Describe a run: its stages, the stored cells, the data, the directory.

    Nothing is written.
    """
    folder, cache = folder_of(study, out), compilation_cache.new_cache()
    # The cells of later stages depend on the results of this one.
    first = study.stages[0]
    groups = [item for item in first.make({}) if isinstance(item, SweepGroup)]
    pools = assignment.pool_cells(groups)
    cells = {cell for pool in pools for cell in pool.cells}
    stored = cells & stores.stored_cells(folder.parent / stores.CHUNKS)
    devices = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    lines = [
        f"{study.name}, plan {hash_of(study)}: {study.size}, "
        f"{study.plan.chunk} in parallel on {devices}",
        *(f"  stage {stage.name}: {_amount(stage)}" for stage in study.stages),
        f"{len({digest(group.config) for group in groups})} programs to compile for "
        f"the stage {first.name}; {len(stored)} of its {len(cells)} different cells "
        "are stored",
    ]
    # Several setups may use the same data.
    setups = {manifests.data_name(setup): setup for setup in setups_of(study)}
    for name, setup in setups.items():
        try:
            compilation_cache.load_data(cache, setup)
            status = "found"
        except UserError as error:
            status = str(error)
        lines.append(f"data {name}: {status}")
    state = "does not exist yet"
    if manifests.is_finished(folder):
        state = "finished"
    elif manifests.is_started(folder):
        state = "not finished"
    return "\n".join([*lines, f"results in {folder}: {state}"])


def _amount(stage: Stage) -> str:
    return f"at most {stage.runs} runs" if stage.runs else "measurements"
