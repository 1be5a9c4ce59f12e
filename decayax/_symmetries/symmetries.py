r"""Scale symmetries: which weights does a model not see the size of?

.. math:: f(e^{t a} \theta) = f(\theta) \quad \text{for all } t, \theta

Decay cannot change what the model computes along such a direction: it changes how fast
the weights turn. Two independent ways find the exponents: products of gradients and
parameters at random points (``probes``), and degrees of homogeneity (``degrees``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, ExitStack
from typing import Any

import jax
import jax.experimental
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
from decayax._symmetries.float64 import in_float64, NO_EPSILON
from decayax._symmetries.measured import Measured
from decayax._symmetries.probes import probe, usual_size
from decayax._symmetries.problem import pose, Problem, require_whole
from decayax._symmetries.report import ScaleSymmetries
from decayax._symmetries.values import has_fraction, wide, widen


MAX_WEIGHTS = 5_000_000


def scale_symmetries(
    function: Callable[[Any], Any],
    params: optax.Params,
    *,
    stacked: Mapping[str, int | None] | None = None,
    seed: int = 0,
    max_weights: int = MAX_WEIGHTS,
) -> ScaleSymmetries:
    r"""Find the weights whose size the model does not see, from the model function.

    .. math:: f(e^{t a_1} \theta_1, e^{t a_2} \theta_2, \ldots) = f(\theta)
              \iff \sum_l a_l \langle g_l, \theta_l \rangle = 0

    for all t, θ and cotangents, where g is the vector-Jacobian product. For L leaves,
    L + 8 of them at random parameters give a matrix, whose null space is all exponents
    a. Every answer is confirmed by a finite scaling, and compared with the degrees of
    homogeneity of the operations of the program. Much of the theory of weight decay
    (effective learning rate, rotational equilibrium) holds for invariant leaves only.

    Everything is calculated in float64 on the CPU, with the dtypes of the function
    replaced: a bfloat16 model gives the same answer. `stop_gradient` and custom
    derivatives are ignored, because a symmetry is about the outputs. The ε of norms (a
    constant up to 1e-3 that is added to a denominator, or bounds it) counts as 0. The
    ``deviation`` of a leaf is how much it changes the outputs. What holds near the
    parameters only, such as for ReLU6 with small weights, is not a symmetry.

    Args:
        function: params -> outputs or a loss, a JAX function that closes over a batch
            of inputs. Dropout must be off, and BatchNorm must use the statistics of the
            batch: with running averages, the model does see the size of its weights.
            ``nnx_function``, ``linen_function`` and ``equinox_function`` make it from a
            model. A loss shows the same symmetries as its logits, and its own.
        params: any pytree of arrays or ``jax.ShapeDtypeStruct``. The values are moved
            at random, so zeros and gains of 1 are not a special case.
        stacked: parameters that hold a stack of layers along an axis: a regular
            expression for the whole path -> axis, or None if it is not one. Each slice
            has its own answer. Stacks that ``scan``, ``vmap`` or indices take apart are
            found without it.
        seed: of the random parameters and cotangents.
        max_weights: the largest number of weights. Use a small configuration of the
            same model, with the same number of layers, and carry the answer over to the
            large one by its paths: ``masks.scale_invariant(symmetries)`` does, and
            ``symmetries.carry_over(params)``.

    Returns:
        The kind of every leaf and the groups; ``print`` it for a table.

    Raises:
        TypeError: the function returns no floats, or runs under ``jit``.
        ValueError: more weights than ``max_weights``, or outputs that are not finite.

    Example:
        >>> import decayax as dx, jax, jax.numpy as jnp
        >>> x = jax.random.normal(jax.random.key(0), (16, 4))
        >>> def model(p):
        ...     h = x @ p["in"]
        ...     h = p["gain"] * h / jnp.sqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-6)
        ...     return jax.nn.relu(h) @ p["out"]
        >>> params = {"in": jnp.ones((4, 8)), "gain": jnp.ones(8), "out": jnp.eye(8)}
        >>> symmetries = dx.scale_symmetries(model, params)
        >>> [(leaf.path, leaf.kind) for leaf in symmetries.leaves]
        [('gain', 'joint'), ('in', 'invariant'), ('out', 'joint')]
        >>> symmetries.groups
        ({'gain': 1.0, 'out': -1.0},)

    Reference:
        Conserved quantities of scalings: Kunin et al., Neural Mechanics (ICLR 2021),
        arXiv:2012.04728.
    """
    require_whole("seed", seed)
    problem = pose(function, params, stacked, max_weights)
    reading = read_degrees(problem.program, problem.parameters)
    with _float64_on_cpu():
        measured = _measure(problem, seed)
    return decide(problem, measured, reading)


@contextmanager
def _float64_on_cpu() -> Iterator[None]:
    """Calculate on the CPU, because an accelerator may not have float64."""
    with ExitStack() as stack:
        # JAX before 0.8 has it in jax.experimental only.
        home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
        stack.enter_context(home.enable_x64(True))
        stack.enter_context(jax.transfer_guard("allow"))
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
    try:
        probes = probe(lambda x: function(x, NO_EPSILON), leaves, parameters, seed)
    except Exception as error:
        error.add_note(
            "scale_symmetries: raised by the function in float64, or by its derivative."
        )
        raise
    tolerance = NARROW_TOLERANCE if narrow else TOLERANCE
    found = classify(probes, tolerance)
    eye = np.eye(len(found.flat))
    vectors = {
        "dead": np.where(eye[found.flat] > 0, np.nan, 0.0),
        "flat": eye[found.flat],
        "invariant": eye[found.invariant],
        "groups": found.groups,
    }
    every = [v for rows in vectors.values() for v in rows]
    changes = deviations(function, leaves, parameters, every, seed)
    ends = np.cumsum([len(rows) for rows in vectors.values()])[:-1]
    changes = np.split(changes, ends, axis=1)
    by_kind = dict(zip(vectors, changes, strict=True))
    return Measured(found, probes, tolerance, narrow, by_kind)


def _as_float64(x: Any, random: np.random.Generator) -> Any:
    """The values of a leaf; random values for a leaf that is only a shape."""
    if isinstance(x, jax.ShapeDtypeStruct):
        if not has_fraction(x.dtype):
            return np.zeros(x.shape, x.dtype)
        values = usual_size(x.shape) * random.standard_normal(x.shape)
        return values.astype(wide(x.dtype))
    return widen(x)
