"""Files are read into arrays, or one line says which file is damaged and how."""

import gzip
import hashlib
import zlib
from pathlib import Path

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
