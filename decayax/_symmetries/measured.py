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
    # "dead", "invariant", "groups" -> relative changes of the outputs by a finite
    # scaling, [points, candidates, 2]: without ε, and with the ε of the function
    changes: dict[str, np.ndarray]
