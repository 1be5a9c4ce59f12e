"""Read files into arrays. An error names the damaged file and its fault in one line."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from experiments.data.data_paths import DataDamaged


def read_bytes(path: Path) -> bytes:
    """All bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataDamaged(path, f"cannot be read ({error.strerror})") from None


def gunzip(data: bytes, path: Path) -> bytes:
    """The unpacked content of a gzip file."""
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataDamaged(path, f"not a complete gzip file ({error})") from None


def verify_checksum(data: bytes, path: Path, algorithm: str, expected: str) -> None:
    """Raise unless the bytes have the checksum."""
    found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataDamaged(path, f"{algorithm} is {found}, should be {expected}")


def parse_idx(data: bytes, path: Path, axes: int) -> np.ndarray:
    """An idx file of bytes: 0, 0, 8 (uint8), number of axes; their lengths; values."""
    start = 4 + 4 * axes
    if data[:4] != bytes([0, 0, 8, axes]) or len(data) < start:
        raise DataDamaged(path, f"not an idx file of bytes with {axes} axes")
    shape = tuple(int(length) for length in np.frombuffer(data[4:start], ">u4"))
    values = np.frombuffer(data[start:], np.uint8)
    if values.size != np.prod(shape, dtype=object):
        raise DataDamaged(path, f"holds {values.size} values, its header says {shape}")
    return values.reshape(shape)
