"""Files are read into arrays, or one line says which file is damaged and how.

Nothing that a file holds is ever run: of pickles, arrays and plain values are read.
"""

import gzip
import hashlib
import io
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.places import Damaged


def read(path: Path) -> bytes:
    """All bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})") from None


def gunzip(data: bytes, path: Path) -> bytes:
    """What gzip packed."""
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise Damaged(path, f"no whole gzip file ({error})") from None


def verify(data: bytes, path: Path, algorithm: str, expected: str) -> None:
    """Raise unless the bytes have the checksum."""
    found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise Damaged(path, f"{algorithm} is {found}, should be {expected}")


def idx(data: bytes, path: Path, axes: int) -> np.ndarray:
    """An idx file of bytes: 0, 0, 8 (uint8), number of axes; their lengths; values."""
    start = 4 + 4 * axes
    if data[:4] != bytes([0, 0, 8, axes]) or len(data) < start:
        raise Damaged(path, f"no idx file of bytes with {axes} axes")
    shape = tuple(int(length) for length in np.frombuffer(data[4:start], ">u4"))
    values = np.frombuffer(data[start:], np.uint8)
    if values.size != np.prod(shape, dtype=object):
        raise Damaged(path, f"holds {values.size} values, its head says {shape}")
    return values.reshape(shape)


def unpickle(data: bytes, path: Path) -> Any:
    """NumPy arrays and plain values out of a pickle; Python 2's strings as bytes."""
    try:
        return _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # damaged pickles raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Damaged(path, f"no pickle of arrays alone ({reason})") from None


class _ArraysOnly(pickle.Unpickler):
    """Looks up what arrays need and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "numpy", "ndarray":
                return None  # an argument that _empty_array ignores
            case "numpy", "dtype":
                return _dtype
            # Before NumPy 2, and since.
            case "numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct":
                return _empty_array
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _dtype(name: bytes | str, *_: Any) -> np.dtype:
    """A type of numbers; without the flags of old pickles, which NumPy now refuses.

    A copy, because the pickle sets its byte order next.
    """
    found = np.dtype(name.decode() if isinstance(name, bytes) else name, copy=True)
    if found.kind not in "biuf":
        raise pickle.UnpicklingError(f"it holds an array of {found}")
    return found


def _empty_array(*_: Any) -> np.ndarray:
    """An array that the pickle fills in next."""
    return np.empty(0, np.uint8)
