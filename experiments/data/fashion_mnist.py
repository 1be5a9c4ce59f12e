"""Fashion-MNIST: 70000 photographs of clothes, 28 x 28 pixels in [0, 1], ten classes.

The four files of Zalando, from Debian's package (MIT license). The official training
part is the pool; t10k is the test part.

Reference:
    Xiao, Rasul, Vollgraf, *Fashion-MNIST*, arXiv:1708.07747 (2017).
"""

from pathlib import Path

import numpy as np

from experiments.data import data_paths, formats
from experiments.data.labelled import Labelled


CLASSES = 10
# Of the unpacked bytes: Debian compressed them again, so its .gz files differ.
MD5 = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}
SOURCE = data_paths.DataSource(
    title="Fashion-MNIST",
    name="fashion-mnist",
    files=tuple(MD5),
    hint="Run `make data` (or apt-get install dataset-fashion-mnist), or",
)


def load(
    pool_size: int | None = None, test_size: int | None = None, *, check: bool = True
) -> Labelled:
    """The first rows of the official parts; float32[N, 28, 28]."""
    folder = data_paths.find_folder(SOURCE)
    train, t10k = (_part(folder, name, check) for name in ("train", "t10k"))
    pool_x, pool_y = _first_rows(train, pool_size, "pool_size")
    test_x, test_y = _first_rows(t10k, test_size, "test_size")
    return Labelled(pool_x, pool_y, test_x, test_y)


def _part(folder: Path, name: str, check: bool) -> tuple[np.ndarray, np.ndarray]:
    images = _array(folder / f"{name}-images-idx3-ubyte.gz", 3, check)
    labels = _array(folder / f"{name}-labels-idx1-ubyte.gz", 1, check)
    if len(images) != len(labels):
        raise data_paths.DataDamaged(
            folder / f"{name}-labels-idx1-ubyte.gz",
            f"{len(labels)} labels for {len(images)} images",
        )
    return images, labels


def _first_rows(
    part: tuple[np.ndarray, np.ndarray], size: int | None, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The first rows of a part, scaled to [0, 1]; None takes all."""
    images, labels = part
    if size is not None and not 0 < size <= len(labels):
        raise ValueError(f"{name}={size}: pass a number from 1 to {len(labels)}.")
    x = images[:size].astype(np.float32, order="C")  # cut first: less memory
    x /= 255
    return x, labels[:size].astype(np.int32)


def _array(path: Path, axes: int, check: bool) -> np.ndarray:
    data = formats.gunzip(formats.read_bytes(path), path)
    if check:
        formats.verify_checksum(data, path, "md5", MD5[path.name])
    return formats.parse_idx(data, path, axes)
