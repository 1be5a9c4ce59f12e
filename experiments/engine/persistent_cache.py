"""Compiled programs on disk: a process finds those that others have compiled."""

import platform
import warnings
from pathlib import Path

import jax

from experiments.engine.describe import digest


CPU_INFO = Path("/proc/cpuinfo")
FEATURES = ("flags", "features")  # on x86 and on ARM


def use_persistent_cache(folder: Path) -> None:
    """Use a folder as JAX's compilation cache, unless the user has chosen one.

    The folder can be on a disk that different machines share. Each kind of processor
    has a subfolder, as compiled code may use instructions that another one lacks.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    # Absolute, because the process may change its directory.
    path = folder.resolve() / processor_digest()
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # An entry that cannot be read is compiled again; one that cannot be written is
    # lost.
    message = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message=message)


def processor_digest() -> str:
    """Twelve hex digits that change with the machine's type and its instructions."""
    return digest([platform.system(), platform.machine(), _features()])


def _features() -> list[str]:
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return [platform.processor()]
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip().lower() in FEATURES:
            return sorted(values.split())
    return [platform.processor()]
