"""Atomic writes, and the provenance of a run."""

import contextlib
import functools
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import interrupts


PACKAGES = ("decayax", "jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn")
SETTINGS = (  # of JAX, that change numbers
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_threefry_partitionable",
)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`, renamed to it after everything is written."""
    interrupts.raise_if_interrupted()
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{platform.node() or 'here'}-{os.getpid()}"
    temporary = path.with_name(f".{path.name}.{writer}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # on the disk before the rename
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files that killed processes of this machine have left."""
    for path in folder.glob(".*.part"):
        host, _, process = path.name.removesuffix(".part").rpartition("-")
        if host.endswith(f".{platform.node() or 'here'}") and not _alive(int(process)):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, with all checksums verified.

    Raises:
        ValueError: the file is damaged.
        OSError: the file cannot be read now; its content may be fine.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        if bad := zipfile.ZipFile(content).testzip():
            raise ValueError(f"bad checksum of {bad}")
        content.seek(0)
        with np.load(content) as stored:
            return {name: stored[name] for name in stored.files}
    except MemoryError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds
        raise ValueError(str(error) or type(error).__name__) from None


@functools.cache
def _fixed_provenance() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.local_device_count(),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        },
        "machine": f"{platform.system()} {platform.machine()}",
        "git_revision": _git("rev-parse", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def provenance() -> dict[str, Any]:
    """Versions, devices and revision, which a reader needs to repeat the run."""
    fixed = _fixed_provenance()
    settings = {name: jax.config.values[name] for name in SETTINGS}  # may change
    return fixed | {"device": fixed["device"] | settings}


def revision_of(provenance: dict[str, Any]) -> str:
    """The git revision of a provenance, in words."""
    changes = " with local changes" if provenance["git_changed"] else ""
    return (provenance["git_revision"] or "not in a git checkout") + changes


def _git(*arguments: str) -> str | None:
    """The output of git in the folder of this file; None without git or checkout."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
