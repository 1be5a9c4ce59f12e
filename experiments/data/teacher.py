"""Generated data: a fixed random network, the teacher, classifies random inputs.

    x ~ N(0, 1) in 64 dimensions,  class = argmax_k  v_k . tanh(Wx)

W is 32 x 64 with entries N(0, 1/64), so Wx has variance 1. Each of the ten v_k is a
random direction of length 1; with different lengths, the longest ones would win most
inputs. A network of this size can have an error of 0, because the teacher has.
"""

import numpy as np

from experiments.data.labelled import Labelled


CLASSES = 10
INPUTS = 64
HIDDEN = 32
SEED = 2024


def load(pool_size: int = 1737, test_size: int = 2000) -> Labelled:
    """Inputs, float32[N, 64], and the teacher's classes; the same on every machine.

    A smaller part consists of the first rows of a larger one.
    """
    generator = _generator(0)
    weights = generator.standard_normal((HIDDEN, INPUTS)) / np.sqrt(INPUTS)
    directions = generator.standard_normal((CLASSES, HIDDEN))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def classes(x: np.ndarray) -> np.ndarray:
        # In float64, so that the rounding of a machine does not change a class.
        scores = np.tanh(x.astype(np.float64) @ weights.T) @ directions.T
        return np.argmax(scores, axis=1).astype(np.int32)

    pool_x, test_x = (
        _generator(part).standard_normal((size, INPUTS)).astype(np.float32)
        for part, size in ((1, pool_size), (2, test_size))
    )
    return Labelled(pool_x, classes(pool_x), test_x, classes(test_x))


def _generator(part: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([SEED, part]))
