"""What a run would do, said before it is begun."""

from pathlib import Path

import jax

from experiments.engine import manifest as manifests, store as stores, wanted, workshop
from experiments.engine.describe import digest
from experiments.engine.plan import Block
from experiments.engine.study import folder_of, hash_of, recipes_of, Study
from experiments.problem import Problem


def preview(study: Study, out: Path) -> str:
    """What would be run, where to, and what of it is there; nothing is written."""
    folder, shop = folder_of(study, out), workshop.workshop()
    first = study.stages[0]
    blocks = [item for item in first.make({}) if isinstance(item, Block)]
    pools = wanted.pools_of(blocks)
    cells = {cell for pool in pools for cell in pool.cells}
    there = cells & stores.cells_in(folder.parent / "pieces")
    devices = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    lines = [
        f"{study.name}, plan {hash_of(study)}: {study.size}, "
        f"{study.plan.chunk} side by side on {devices}",
        *(f"  {s.name}: {s.runs or 'no'} runs" for s in study.stages),
        f"{len({digest(block.static) for block in blocks})} programs to compile; "
        f"{len(there)} of {len(cells)} different cells of {first.name} are there",
    ]
    recipes = {manifests.data_name(recipe): recipe for recipe in recipes_of(study)}
    for name, recipe in recipes.items():
        try:
            workshop.data_of(shop, recipe)
            answer = "there"
        except Problem as problem:
            answer = str(problem)
        lines.append(f"data {name}: {answer}")
    state = "nothing there yet"
    if manifests.is_finished(folder):
        state = "finished"
    elif manifests.is_begun(folder):
        state = "begun"
    return "\n".join([*lines, f"results in {folder}: {state}"])
