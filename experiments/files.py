"""Atomic file writes, and the provenance of a run."""

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
SETTINGS = (  # JAX settings that change numbers
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_threefry_partitionable",
)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` when the block ends.

    A block that raises leaves no file.
    """
    interrupts.raise_if_interrupted()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Host and process are in the name, so two writers never share a temporary file.
    temporary = path.with_name(f".{path.name}.{_host()}-{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            # The content must be on the disk before the name is.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # for the error message
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of killed processes of this machine."""
    for path in folder.glob(".*.part"):
        name_and_host, _, process = path.name.removesuffix(".part").rpartition("-")
        if name_and_host.endswith(f".{_host()}") and not _is_running(int(process)):
            path.unlink(missing_ok=True)


def _host() -> str:
    return platform.node() or "here"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 is not sent; it only checks the process
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed .npz file atomically."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a .npz file and verify all checksums.

    Raises:
        ValueError: the file is damaged.
        OSError: the file cannot be read now; its content may be undamaged.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        damaged = zipfile.ZipFile(content).testzip()
        if damaged is not None:
            raise ValueError(f"bad checksum of {damaged}")
        content.seek(0)
        with np.load(content) as stored:
            return {name: stored[name] for name in stored.files}
    except MemoryError:  # not a property of the file
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many types
        raise ValueError(str(error) or type(error).__name__) from None


@functools.cache  # reading versions and git takes long, and they do not change
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
    """Return what a reader needs to repeat a run: versions, devices, git revision."""
    fixed = _fixed_provenance()
    # Not cached, because a program may change the settings.
    settings = {name: jax.config.values[name] for name in SETTINGS}
    return fixed | {"device": fixed["device"] | settings}


def revision_of(provenance: dict[str, Any]) -> str:
    """Return the git revision of a provenance, for a message."""
    changes = " with local changes" if provenance["git_changed"] else ""
    return (provenance["git_revision"] or "not in a git checkout") + changes


def _git(*arguments: str) -> str | None:
    """Run git in the folder of this file; None without git, a checkout or output."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if result.returncode != 0:
        return None
    return result.stdout.strip() or None
