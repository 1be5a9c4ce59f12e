"""Devices: every CPU core is one, and how much memory a program may take of each."""

import os
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.errors import UserError


MEMORY_SHARE = 0.7  # of a device, for a program; the runtime needs the other part


def use_all_cores() -> None:
    """Make every CPU core a device; before JAX is used for the first time.

    Raises:
        UserError: JAX has been used.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
        try:
            jax.config.update("jax_num_cpu_devices", len(cores(0)))
        except RuntimeError:
            raise UserError(
                "JAX ran before the study did, so the CPU cores cannot become devices "
                "any more: at the top of the study's file use NumPy, not jax.numpy."
            ) from None


def spread_over_devices(parallel: int) -> tuple[NamedSharding, NamedSharding]:
    """Shardings of the cell axis and of what all cells share.

    Local devices only: processes never wait for one another. The cells are spread over
    the largest number of devices that divides `parallel`.
    """
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if parallel % n == 0)
    mesh = jax.make_mesh(
        (count,), ("cell",), axis_types=(AxisType.Auto,), devices=devices[:count]
    )
    return (
        NamedSharding(mesh, PartitionSpec("cell")),
        NamedSharding(mesh, PartitionSpec()),
    )


def bytes_needed(compiled: Any) -> int:
    """Memory of a program on each device, as its compiler reports it; 0 if unknown."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def bytes_free() -> float:
    """The memory that a program may take of each device; CPU devices share theirs.

    A share of all memory, not of the memory that is free now: the number of parallel
    cells decides the last bits, and must be the same when a run is resumed.
    """
    devices = jax.local_devices()
    if stats := devices[0].memory_stats():
        return MEMORY_SHARE * stats["bytes_limit"]
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")
    return MEMORY_SHARE * memory / len(devices)


def out_of_memory(error: Exception) -> bool:
    """Whether the runtime reports that a device's memory is full."""
    return "RESOURCE_EXHAUSTED" in str(error)
