"""What was measured of a function."""

from typing import NamedTuple

import numpy as np

from decayax._symmetries.classify import Candidates
from decayax._symmetries.probes import Probes


class Measured(NamedTuple):
    """The candidates, and how much the outputs change if they are scaled."""

    candidates: Candidates
    probes: Probes
    tolerance: float
    narrow: set[str]  # primitives that do not run in float64
    # "dead", "flat", "invariant", "groups" -> relative changes of the outputs if it is
    # scaled, [points, candidates, 3]: without ε; by large factors; with ε
    changes: dict[str, np.ndarray]
