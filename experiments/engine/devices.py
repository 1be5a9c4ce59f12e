"""Devices: every CPU core is a device. How much memory a program may use on each."""

import os
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.errors import UserError


MEMORY_SHARE = 0.7  # of a device's memory for a program; the runtime needs some, too


def use_all_cores() -> None:
    """Make every CPU core a device. Call it before JAX is used for the first time.

    A number of devices in `XLA_FLAGS` takes precedence.

    Raises:
        UserError: JAX has been used already.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        try:
            jax.config.update("jax_num_cpu_devices", _count_cores())
        except RuntimeError:
            raise UserError(
                "JAX was used before the study started, so the CPU cores cannot become "
                "devices. At the top of the study's file, use NumPy instead of "
                "jax.numpy."
            ) from None


def _count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: a container may have fewer cores
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread_over_devices(parallel: int) -> tuple[NamedSharding, NamedSharding]:
    """Return the sharding of the cell axis, and that of data that all cells share.

    Only local devices are used, so processes never wait for each other inside a
    program. The number of devices is the largest one that divides `parallel`.
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
    """Return a program's memory on each device, from XLA's report; 0 if unknown."""
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
    """Return the memory that a program may use on each device.

    It is a fraction of the total memory, not of the memory that is free now. The number
    of parallel cells changes the last bits, so it must be the same when a run resumes.
    """
    devices = jax.local_devices()
    stats = devices[0].memory_stats()  # None or empty on a CPU
    if stats:
        return MEMORY_SHARE * stats["bytes_limit"]
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")
    return MEMORY_SHARE * memory / len(devices)  # the CPU devices share the memory


def out_of_memory(error: Exception) -> bool:
    """Whether an error of the runtime says that a device's memory is full."""
    return "RESOURCE_EXHAUSTED" in str(error)
