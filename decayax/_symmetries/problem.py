"""The question as data: the traced program and the parameters that have a scale."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

from decayax._core.dtypes import is_inexact
from decayax._core.parameters import is_parameter, require_no_state
from decayax._core.paths import is_masked_leaf, leaves_with_path, Path, path_str
from decayax._core.strength import short_repr
from decayax._jaxpr.dataflow import subjaxprs
from decayax._symmetries.float64 import has_while
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
    require_whole("max_weights", max_weights)
    pairs = [(path, x) for path, x in leaves_with_path(params) if not is_masked_leaf(x)]
    paths, values = [path for path, _ in pairs], [x for _, x in pairs]
    has_scale = _check_leaves(params, paths, values, max_weights)
    program = _trace(function, params)
    if has_while(program.jaxpr):
        _require_derivative(function, params)
    shapes = [np.shape(x) for x in values]
    stacks: dict[int, int | None] = dict(stacked_axes(program, paths, shapes))
    given = {} if stacked is None else stacked
    stacks |= _stacks_of_user(given, paths, shapes)
    kept = [i for i, keep in enumerate(has_scale) if keep]
    known = parameters_with_units(
        [paths[i] for i in kept],
        [shapes[i] for i in kept],
        [stacks.get(i) for i in kept],
    )
    names = [name for p in known for name in p.names()]
    _require_once(names)
    by_leaf = dict(zip(kept, known, strict=True))
    parameters = [by_leaf.get(i) for i in range(len(values))]
    return Problem(program, values, parameters, _draws(program.jaxpr))


def _require_once(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"{NAME}: two parameters have the path {twice[0]}. Rename one of the keys."
        )


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
        avals = [y.aval for y in program.jaxpr.outvars]
        dtypes = ", ".join(f"{y.dtype}{list(y.shape)}" for y in avals) or "nothing"
        raise TypeError(
            f"{NAME}: function(params) must return floats, got {dtypes}. Return the "
            "logits or the loss, not their argmax."
        )
    return program


def _require_derivative(function: Callable[[Any], Any], params: optax.Params) -> None:
    """Raise as JAX does for a loop without a derivative, if its inputs need one."""

    def total(params: Any) -> Any:
        outputs = [y for y in jax.tree.leaves(function(params)) if is_inexact(y)]
        return sum(jnp.sum(jnp.abs(y.astype(jnp.float32))) for y in outputs)

    try:
        jax.eval_shape(jax.grad(total, allow_int=True), params)
    except Exception as error:
        error.add_note(f"{NAME}: the function has no derivative in reverse mode.")
        raise


def require_whole(name: str, value: Any) -> None:
    """Raise unless an argument is an integer >= 0."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < 0:
        raise TypeError(
            f"{NAME}: {name} must be an integer >= 0, got {short_repr(value)}."
        )


def _stacks_of_user(
    stacked: Mapping[str, int | None],
    paths: Sequence[Path],
    shapes: Sequence[tuple[int, ...]],
) -> dict[int, int | None]:
    """The axes that the user gives for the parameters whose whole path matches."""
    if not isinstance(stacked, Mapping):
        raise TypeError(
            f"{NAME}: stacked must be a dict pattern -> axis, got "
            f"{short_repr(stacked)}. Pass {{'layers/.*': 0}}, for example."
        )
    axes: dict[int, int | None] = {}
    for pattern, axis in stacked.items():
        is_axis = isinstance(axis, int) and not isinstance(axis, bool)
        if axis is not None and not is_axis:
            raise TypeError(
                f"{NAME}: the axis of {pattern!r} in stacked must be an integer or "
                f"None, got {short_repr(axis)}."
            )
        matched = _matches(pattern, paths)
        if not matched:
            raise ValueError(
                f"{NAME}: no parameter has a path that matches {pattern!r} in stacked."
            )
        for i in matched:
            rank = len(shapes[i])
            if i in axes:
                raise ValueError(
                    f"{NAME}: two patterns of stacked match {path_str(paths[i])}."
                )
            if axis is not None and not -rank <= axis < rank:
                raise ValueError(
                    f"{NAME}: stacked gives the axis {axis} for {path_str(paths[i])}, "
                    f"which has the shape {shapes[i]}."
                )
            axes[i] = None if axis is None else axis % rank
    return axes


def _matches(pattern: Any, paths: Sequence[Path]) -> list[int]:
    try:
        match = re.compile(pattern).fullmatch
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{NAME}: {pattern!r} in stacked is not a regular expression: {error}. Use "
            "'.*' (not '*') to match any text."
        ) from error
    return [i for i, path in enumerate(paths) if match(path_str(path))]


def _draws(jaxpr: core.Jaxpr) -> bool:
    return any(
        bool(RANDOM(eqn.primitive.name)) or any(map(_draws, subjaxprs(eqn)))
        for eqn in jaxpr.eqns
    )
