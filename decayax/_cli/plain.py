"""Results as plain data for JSON, in which every number is finite."""

import math
from typing import Any

import jax
import numpy as np

from decayax._audit import Audit, Finding
from decayax.masks._describe import Description


def audit_data(audit: Audit, failures: list[Finding]) -> dict[str, Any]:
    """An audit. ``failures`` are the findings because of which the check fails."""
    leaves = [
        leaf._asdict()
        | {
            "half_life_steps": leaf.half_life_steps,
            "timescale_steps": leaf.timescale_steps,
        }
        for leaf in audit.leaves
    ]
    return finite(
        {
            "passed": not failures,
            "failures": [finding._asdict() for finding in failures],
            "findings": [finding._asdict() for finding in audit.findings],
            "leaves": leaves,
            "steps": audit.steps,
            "elementwise": audit.elementwise,
            "sampled": audit.sampled,
        }
    )


def description_data(description: Description) -> dict[str, Any]:
    """What a mask decides."""
    return finite(
        {
            "rows": [row._asdict() for row in description.rows],
            "decayed": description.decayed,
            "excluded": description.excluded,
        }
    )


def finite(value: Any) -> Any:
    """The same in lists, dicts and numbers; None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [finite(each) for each in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return finite(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
