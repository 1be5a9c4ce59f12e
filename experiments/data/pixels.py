"""Images of bytes become numbers in [0, 1], after the parts were cut to size."""

import numpy as np

from experiments.data.labelled import Labelled


def labelled(
    pool: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    pool_size: int | None,
    test_size: int | None,
) -> Labelled:
    """The first rows of two parts, each images uint8 and labels; None takes all."""
    pool_x, pool_y = _first(pool, pool_size, "pool_size")
    test_x, test_y = _first(test, test_size, "test_size")
    return Labelled(pool_x, pool_y, test_x, test_y)


def _first(
    part: tuple[np.ndarray, np.ndarray], size: int | None, name: str
) -> tuple[np.ndarray, np.ndarray]:
    images, labels = part
    if size is not None and not 0 < size <= len(labels):
        raise ValueError(f"{name}={size}: there are 1 to {len(labels)} rows to take.")
    x = images[:size].astype(np.float32, order="C")
    x /= 255
    return x, labels[:size].astype(np.int32)
