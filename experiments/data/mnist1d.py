"""MNIST-1D: 5000 signals of 40 numbers, one shape to each of ten digits, made by code.

The PyPI package mnist1d draws them (Apache-2.0), always the same; equal to the authors'
published file up to 1e-15. They come in random order: 4000 are the pool, 1000 the test.

Reference:
    Greydanus, Kobak, *Scaling down deep learning with MNIST-1D*, arXiv:2011.14439.
"""

import contextlib
import importlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.data.data_paths import DataNotFound, package_folders
from experiments.data.labelled import Labelled


CLASSES = 10
NEEDS = ("mnist1d", "requests", "matplotlib", "scipy")  # what importing it imports


def require() -> None:
    """Raise DataNotFound unless everything that makes the set is installed."""
    lacking = [name for name in NEEDS if not package_folders(name)]
    if lacking:
        raise _missing(f"no package {', '.join(lacking)}")


def load() -> Labelled:
    """Signals of mean 0 and standard deviation 1 over the whole set; float32[N, 40]."""
    require()
    try:
        package: Any = importlib.import_module("mnist1d.data")
    except ImportError as error:
        raise _missing(str(error)) from None
    with _global_generators_untouched():
        made = package.make_dataset(package.get_dataset_args())
    return Labelled(
        made["x"].astype(np.float32),
        made["y"].astype(np.int32),
        made["x_test"].astype(np.float32),
        made["y_test"].astype(np.int32),
    )


def _missing(reason: str) -> DataNotFound:
    return DataNotFound(
        f"MNIST-1D cannot be made ({reason}). Run `make data` "
        "(or pip install mnist1d==0.0.2.post1)."
    )


@contextlib.contextmanager
def _global_generators_untouched() -> Iterator[None]:
    """The package seeds Python's and NumPy's global generators."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
