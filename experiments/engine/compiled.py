"""Compiled programs on disk: a process finds what others have compiled."""

import platform
import warnings
from pathlib import Path

import jax

from experiments.engine.describe import digest


CPU = Path("/proc/cpuinfo")
FEATURES = ("flags", "features")  # on x86 and on ARM


def keep_compiled(folder: Path) -> None:
    """Use a folder as JAX's compilation cache, unless the user has chosen one.

    It can be on a disk that different machines share: each kind of processor has a
    folder of its own, as compiled code may use instructions that another one lacks.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    place = folder.resolve() / processor()  # the process may go to another directory
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # What cannot be read is compiled again, and what cannot be written is not kept.
    message = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message=message)


def processor() -> str:
    """Twelve hex digits that change with the machine's type and its instructions."""
    return digest([platform.system(), platform.machine(), _features()])


def _features() -> list[str]:
    try:
        lines = CPU.read_text(encoding="utf-8").splitlines()
    except OSError:
        return [platform.processor()]
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip().lower() in FEATURES:
            return sorted(values.split())
    return [platform.processor()]
