"""What a process has loaded and compiled so far: each thing once."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.engine import devices, program
from experiments.engine.describe import describe, digest
from experiments.engine.plan import Cell, Data, Recipe, Static


DRAWN_AT_MOST = 256  # batches of a seed and segment, kept for the next chunk


class Workshop(NamedTuple):
    """Caches that live as long as a process; keys are descriptions."""

    data: dict[str, Data]
    benches: dict[tuple[Any, ...], program.Bench]
    programs: dict[tuple[Any, ...], program.Program]
    keepers: dict[tuple[Any, ...], Callable[..., Any]]
    narrowed: dict[str, int]  # by static: the width that memory allowed
    drawn: dict[tuple[Any, ...], Any]  # batches by recipe, seed and epoch
    compiling: list[float]  # seconds


def workshop() -> Workshop:
    """An empty one."""
    return Workshop({}, {}, {}, {}, {}, {}, [])


def data_of(shop: Workshop, recipe: Recipe) -> Data:
    """A recipe's data, loaded once."""
    key = digest(recipe)
    if key not in shop.data:
        shop.data[key] = recipe.load()
    return shop.data[key]


def program_for(
    shop: Workshop, static: Static, numbers: Cell, width: int
) -> program.Program:
    """The program of a static configuration, as wide as asked or as memory allows."""
    width = width_for(shop, static, width)
    made = _compiled(shop, static, numbers, width)
    while width > 1 and _bytes_needed(made) > devices.bytes_free():
        width = narrow(shop, static, width)
        made = _compiled(shop, static, numbers, width)
    return made


def width_for(shop: Workshop, static: Static, width: int) -> int:
    """As wide as asked, or as memory has allowed so far."""
    return min(width, shop.narrowed.get(digest(static), width))


def _bytes_needed(made: program.Program) -> int:
    """Of each device, by the hungriest of a program's parts."""
    parts = made.segment, made.bench.measure, made.bench.prepare, made.record
    return max(devices.bytes_needed(part) for part in parts if part is not None)


def narrow(shop: Workshop, static: Static, width: int) -> int:
    """From now on, half the width for this static configuration.

    As many cells on every device: an odd width would be spread over fewer.
    """
    half, count = width // 2, jax.local_device_count()
    half = half // count * count or half
    shop.narrowed[digest(static)] = half
    return half


def batches_for(
    shop: Workshop, made: program.Program, seeds: np.ndarray, first_epoch: int
) -> Any:
    """The batches of a segment for cells with these seeds: [cells, steps, ...]."""
    static, bench = made.static, made.bench
    recipe = digest(static.recipe), static.epochs_per_segment, first_epoch
    drawn = []
    for seed in seeds:
        if (key := (*recipe, int(seed))) not in shop.drawn:
            if len(shop.drawn) >= DRAWN_AT_MOST:
                shop.drawn.clear()
            batches = bench.draw(np.int32(seed), np.int32(first_epoch), bench.data)
            shop.drawn[key] = jax.device_get(batches)
        drawn.append(shop.drawn[key])
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    return jax.device_put(together, devices.spread_over_devices(bench.width)[0])


def keeper(
    shop: Workshop, keep: Callable[..., Any], static: Static, width: int
) -> Callable[..., Any]:
    """`keep` of many cells' parameters at once, compiled once."""
    key = (str(describe(keep)), digest(static.recipe), width)
    return shop.keepers.setdefault(key, jax.jit(jax.vmap(keep)))


def _compiled(
    shop: Workshop, static: Static, numbers: Cell, width: int
) -> program.Program:
    begun = time.perf_counter()
    shapes = tuple(sorted((n, str(x.dtype)) for n, x in numbers.items()))
    epochs = static.epochs_per_segment
    bench_key = (digest(static.recipe), epochs, shapes, width)
    if bench_key not in shop.benches:
        data = data_of(shop, static.recipe)
        task = static.recipe.task()
        bench = program.prepare_bench(task, data, epochs, numbers, width)
        shop.benches[bench_key] = bench
    key = (digest(static), shapes, width)
    if key not in shop.programs:
        bench = shop.benches[bench_key]
        shop.programs[key] = program.compile_program(bench, static, numbers)
        shop.compiling.append(time.perf_counter() - begun)
    return shop.programs[key]
