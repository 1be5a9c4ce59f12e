"""scikit-learn's digits: 1797 images of 8 x 8 pixels in [0, 1], ten classes.

The test part of UCI's optical recognition of handwritten digits, CC BY 4.0.
"""

import numpy as np

from experiments.data.labelled import Labelled


CLASSES = 10
TEST_SPLIT_SEED = 2024


def load(pool_size: int = 1200) -> Labelled:
    """The digits as float32[N, 64], in a pool and a fixed test part."""
    from sklearn.datasets import load_digits  # takes seconds to import

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(TEST_SPLIT_SEED).permutation(len(y))
    x = (x[order] / 16).astype(np.float32)
    y = y[order].astype(np.int32)
    return Labelled(x[:pool_size], y[:pool_size], x[pool_size:], y[pool_size:])
