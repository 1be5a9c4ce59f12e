"""Files that are either there whole or not at all, and where a run came from."""

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
SETTINGS = (  # of JAX, which change numbers
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_threefry_partitionable",
)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, moved onto it only when all is written."""
    interrupts.heed()
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{platform.node() or 'here'}-{os.getpid()}"
    temporary = path.with_name(f".{path.name}.{writer}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # on the disk before it has its name
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes of this machine have left half-written."""
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
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with whole(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote, with all checksums verified.

    Raises:
        ValueError: the file is damaged.
        OSError: the file cannot be read now, which says nothing about its content.
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
def _origin() -> dict[str, Any]:
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
    """Versions, devices and revision: what a reader needs to repeat the run."""
    origin = _origin()
    settings = {name: jax.config.values[name] for name in SETTINGS}  # may change
    return origin | {"device": origin["device"] | settings}


def revision_of(origin: dict[str, Any]) -> str:
    """In words, from what `provenance` says."""
    changes = " with local changes" if origin["git_changed"] else ""
    return (origin["git_revision"] or "not in a git checkout") + changes


def _git(*arguments: str) -> str | None:
    """What git says of the folder this file is in, if there is git and a checkout."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
