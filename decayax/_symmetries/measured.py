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
    exact: dict[str, np.ndarray]  # "dead", "invariant", "groups" -> changes without ε
    real: dict[str, np.ndarray]  # with ε
