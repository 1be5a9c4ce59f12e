"""Compiled programs on disk, so that a program is compiled by one process only."""

import platform
import warnings
from pathlib import Path

import jax

from experiments.engine.describe import digest


CPU_INFO = Path("/proc/cpuinfo")
FEATURES = ("flags", "features")  # the names of the line on x86 and on ARM


def use_persistent_cache(folder: Path) -> None:
    """Use a folder as JAX's compilation cache, unless the user has set one.

    Machines may share the folder. Each type of processor has its own subfolder, because
    compiled code may use instructions that another processor does not have.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    # An absolute path, because the process may change its working directory.
    path = folder.resolve() / processor_digest()
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # JAX warns about a damaged entry and about a full disk. In both cases the program
    # is compiled again later, so the user need not do anything.
    message = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message=message)


def processor_digest() -> str:
    """Return a hash of the machine's type and the processor's instructions."""
    return digest([platform.system(), platform.machine(), _features()])


def _features() -> list[str]:
    """Return the instruction sets of the first core, else the processor's name."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return [platform.processor()]
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip().lower() in FEATURES:
            return sorted(values.split())
    return [platform.processor()]
