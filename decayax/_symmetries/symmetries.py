r"""Scale symmetries: which weights does a model not see the size of?

.. math:: f(e^{t a} \theta) = f(\theta) \quad \text{for all } t, \theta

Decay cannot change what the model computes along such a direction: it changes how fast
the weights turn. Two independent ways find the exponents: products of gradients and
parameters at random points (``probes``), and degrees of homogeneity (``degrees``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._symmetries.classify import (
    classify,
    NARROW_TOLERANCE,
    TOLERANCE,
)
from decayax._symmetries.confirm import deviations
from decayax._symmetries.decide import decide
from decayax._symmetries.degrees import read_degrees
from decayax._symmetries.float64 import in_float64, NO_EPSILON, widen
from decayax._symmetries.measured import Measured
from decayax._symmetries.probes import probe
from decayax._symmetries.problem import pose, Problem
from decayax._symmetries.report import ScaleSymmetries


MAX_WEIGHTS = 5_000_000


def scale_symmetries(
    function: Callable[[Any], Any],
    params: optax.Params,
    *,
    stacked: Mapping[str, int | None] | None = None,
    seed: int = 0,
    max_weights: int = MAX_WEIGHTS,
) -> ScaleSymmetries:
    problem = pose(function, params, stacked, max_weights)
    reading = read_degrees(problem.program, problem.parameters)
    with _float64_on_cpu():
        measured = _measure(problem, seed)
    return decide(problem, measured, reading)


@contextmanager
def _float64_on_cpu() -> Iterator[None]:
    """Whatever the caller's settings: an accelerator may have no float64."""
    with ExitStack() as stack:
        enable_x64 = getattr(jax, "enable_x64", None)
        if enable_x64 is None:  # JAX before 0.8
            from jax.experimental import enable_x64
        stack.enter_context(enable_x64(True))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        try:
            cpu = jax.local_devices(backend="cpu")[0]
        except RuntimeError:  # the process was started without it
            cpu = None
        if cpu is not None:
            stack.enter_context(jax.default_device(cpu))
        yield


def _measure(problem: Problem, seed: int) -> Measured:
    run, narrow = in_float64(problem.program)
    random = np.random.default_rng(seed)
    values = [_as_float64(x, random) for x in problem.values]
    places = [i for i, p in enumerate(problem.parameters) if p]
    parameters = problem.known()

    def function(theta: Sequence[Any], epsilon: Any) -> list[Any]:
        inputs = list(values)
        for i, x in zip(places, theta, strict=True):
            inputs[i] = x
        return run(inputs, epsilon)

    leaves = [np.asarray(values[i]) for i in places]
    probes = probe(lambda x: function(x, NO_EPSILON), leaves, parameters, seed)
    tolerance = NARROW_TOLERANCE if narrow else TOLERANCE
    found = classify(probes, tolerance)
    eye = np.eye(len(found.dead))
    vectors = {
        "dead": np.where(eye[found.dead] > 0, np.nan, 0.0),
        "invariant": eye[found.invariant],
        "groups": found.groups,
    }
    every = [v for rows in vectors.values() for v in rows]
    changes = deviations(function, leaves, parameters, every, (NO_EPSILON, 1.0), seed)
    ends = np.cumsum([len(rows) for rows in vectors.values()])[:-1]
    changes = np.split(changes, ends, axis=1)
    by_kind = dict(zip(vectors, changes, strict=True))
    return Measured(found, probes, tolerance, narrow, by_kind)


def _as_float64(x: Any, random: np.random.Generator) -> Any:
    """The values of a leaf; random values for a leaf that is only a shape."""
    if isinstance(x, jax.ShapeDtypeStruct):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return np.zeros(x.shape, x.dtype)
        fan_in = max(int(np.prod(x.shape[:-1])), 1)
        return widen(random.standard_normal(x.shape).astype(x.dtype) / fan_in**0.5)
    return widen(x)
