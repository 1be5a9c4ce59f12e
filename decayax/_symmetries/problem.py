"""The question as data: the traced program and the parameters that have a scale."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
import optax
from jax.extend import core

from decayax._core.dtypes import is_inexact
from decayax._core.parameters import is_parameter, require_no_state
from decayax._core.paths import is_masked_leaf, leaves_with_path, Path, path_str
from decayax._core.strength import short_repr
from decayax._jaxpr.dataflow import subjaxprs
from decayax._symmetries.stacks import stacked_axes
from decayax._symmetries.units import Parameter, parameters_with_units


NAME = "scale_symmetries"
SMALLER = (
    "Build the model with small widths and the same number of layers, and carry the "
    "answer over to the large one: symmetries.carry_over(params)."
)
RANDOM = re.compile("random_bits|random_gamma|rng_|threefry").match


class Problem(NamedTuple):
    """What the other modules need to know of a function and its parameters."""

    program: core.ClosedJaxpr  # the leaves of the parameters -> outputs
    values: list[Any]  # of all leaves; also shapes, and leaves that have no scale
    parameters: list[Parameter | None]  # one for each leaf; None: it has no scale
    draws: bool  # whether the program draws random numbers

    def known(self) -> list[Parameter]:
        return [p for p in self.parameters if p]


def pose(
    function: Callable[[Any], Any],
    params: optax.Params,
    stacked: Mapping[str, int | None] | None,
    max_weights: int,
) -> Problem:
    """Check the arguments, trace the function and find the stacks."""
    if not callable(function):
        raise TypeError(
            f"{NAME}: function must be a function of the parameters, got "
            f"{short_repr(function)}. Pass lambda params: model.apply(params, inputs)."
        )
    pairs = [(path, x) for path, x in leaves_with_path(params) if not is_masked_leaf(x)]
    paths, values = [path for path, _ in pairs], [x for _, x in pairs]
    has_scale = _check_leaves(params, paths, values, max_weights)
    program = _trace(function, params)
    shapes = [np.shape(x) for x in values]
    stacks: dict[int, int | None] = dict(stacked_axes(program, paths, shapes))
    stacks |= _stacks_of_user(stacked or {}, paths, shapes)
    kept = [i for i, keep in enumerate(has_scale) if keep]
    known = parameters_with_units(
        [paths[i] for i in kept],
        [shapes[i] for i in kept],
        [stacks.get(i) for i in kept],
    )
    by_leaf = dict(zip(kept, known, strict=True))
    parameters = [by_leaf.get(i) for i in range(len(values))]
    return Problem(program, values, parameters, _draws(program.jaxpr))


def _check_leaves(
    params: Any, paths: Sequence[Path], values: Sequence[Any], max_weights: int
) -> list[bool]:
    """Whether each leaf has a scale."""
    require_no_state(NAME, params)
    for path, x in zip(paths, values, strict=True):
        if isinstance(x, jax.core.Tracer):
            raise TypeError(
                f"{NAME}: {path_str(path)} is traced. Call {NAME} outside of jit and "
                "grad: it is needed once, before training."
            )
        if not is_parameter(x) and not hasattr(x, "dtype"):
            raise TypeError(
                f"{NAME}: {path_str(path)} is {short_repr(x)}, not an array. For an "
                "Equinox model, use equinox_function."
            )
    has_scale = [is_parameter(x) and is_inexact(x) for x in values]
    if not any(has_scale):
        raise ValueError(f"{NAME}: params must have a leaf of floats, got none.")
    pairs = zip(values, has_scale, strict=True)
    weights = sum(int(np.size(x)) for x, keep in pairs if keep)
    if weights > max_weights:
        raise ValueError(
            f"{NAME}: the parameters have {weights:_} weights, more than max_weights="
            f"{max_weights:_}. {SMALLER} Or pass a larger max_weights."
        )
    return has_scale


def _trace(function: Callable[[Any], Any], params: optax.Params) -> core.ClosedJaxpr:
    try:
        program = jax.make_jaxpr(function)(params)
    except Exception as error:
        error.add_note(
            f"{NAME}: raised while function(params) was traced. It must be a JAX "
            "function of the parameters alone: close over the inputs."
        )
        raise
    if not any(is_inexact(y.aval) for y in program.jaxpr.outvars):
        dtypes = ", ".join(str(y.aval) for y in program.jaxpr.outvars) or "nothing"
        raise TypeError(
            f"{NAME}: function(params) must return floats, got {dtypes}. Return the "
            "logits or the loss, not their argmax."
        )
    return program


def _stacks_of_user(
    stacked: Mapping[str, int | None],
    paths: Sequence[Path],
    shapes: Sequence[tuple[int, ...]],
) -> dict[int, int | None]:
    """The axes that the user gives for the parameters whose whole path matches."""
    axes: dict[int, int | None] = {}
    for pattern, axis in stacked.items():
        matched = [i for i, p in enumerate(paths) if re.fullmatch(pattern, path_str(p))]
        if not matched:
            raise ValueError(
                f"{NAME}: no parameter has a path that matches {pattern!r} in stacked."
            )
        for i in matched:
            rank = len(shapes[i])
            if axis is not None and not -rank <= axis < rank:
                raise ValueError(
                    f"{NAME}: stacked gives the axis {axis} for {path_str(paths[i])}, "
                    f"which has the shape {shapes[i]}."
                )
            axes[i] = None if axis is None else axis % rank
    return axes


def _draws(jaxpr: core.Jaxpr) -> bool:
    return any(
        bool(RANDOM(eqn.primitive.name)) or any(map(_draws, subjaxprs(eqn)))
        for eqn in jaxpr.eqns
    )
