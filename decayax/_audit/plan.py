"""What `audit` measures: an optimizer, its extra arguments, and on which weights."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr

from decayax._audit.draws import count_numbers, normal, scaled_tree, steps_per_call
from decayax._audit.probe import ProbedOptimizer
from decayax._audit.readings import Setting
from decayax._core.dtypes import dtype_of, is_inexact, to_float32
from decayax._core.parameters import require_parameters
from decayax._core.paths import is_masked_leaf, leaves_with_path, Path, path_str
from decayax._core.strength import is_concrete
from decayax._jaxpr.dependence import (
    ExtraArgs,
    is_elementwise,
    same_operations,
    trace_update,
)
from decayax.masks._roles import roles


# Elementwise optimizers are measured on a sample of at most this many weights over all
# leaves. Most of the time is then compilation.
MAX_SAMPLE = 2**15
# The standard error of a leaf's rate is the spread of single weights over √n: 1/8 of
# the spread for 64 weights, 1/64 for 4096.
MIN_LEAF_SAMPLE, MAX_LEAF_SAMPLE = 64, 4096
# Gradients are drawn from the step indices 0, 1, 2, ... The weights are drawn from an
# index that no gradient has.
INITIAL_WEIGHTS_STEP = np.uint32(2**31)
# What optimizers say in the error about an argument that `update` did not get.
MISSING_ARGUMENT = "missing|required|must be provided|need to pass"


class NotAuditable(Exception):
    """The optimizer needs an argument that the audit cannot make up."""


class ProbePlan(NamedTuple):
    """What to measure, and on which weights."""

    probed: ProbedOptimizer
    shapes: dict[Path, jax.ShapeDtypeStruct]  # of the inexact leaves, in order
    roles: dict[Path, str]
    sizes: dict[Path, float]  # root mean square of the weights
    own_dtypes: Any  # the tree of shapes to measure, perhaps a sample
    float32: Any  # the same with 16-bit floats as float32
    elementwise: bool
    sampled: bool
    steps: int

    def weight_counts(self) -> list[int]:
        """How many weights of each inexact leaf are measured."""
        return [x.size for x in jax.tree.leaves(self.float32) if is_inexact(x)]


def make_plan(
    optimizer: Any,
    params: optax.Params,
    gradients: Any,
    extra_args: dict[str, Any] | None,
    sample: bool | None,
    steps: int,
) -> ProbePlan:
    """Decide what to measure. It takes the arguments of `audit`."""
    require_parameters("audit", params)
    leaves = {p: x for p, x in leaves_with_path(params) if not is_masked_leaf(x)}
    own_dtypes = jax.tree.map(_shape_of, params)
    float32 = _to_float32(own_dtypes)
    extra, program = _extra_args(optimizer, float32, extra_args)
    elementwise = is_elementwise(optimizer, float32, program)
    limit = np.clip(MAX_SAMPLE // max(len(leaves), 1), MIN_LEAF_SAMPLE, MAX_LEAF_SAMPLE)
    cut = jax.tree.map(lambda leaf: _cut(leaf, limit), own_dtypes)
    if sample is None:
        sample = elementwise and _treats_alike(optimizer, cut, extra, program)
    measured = cut if sample else own_dtypes
    return ProbePlan(
        probed=ProbedOptimizer(optimizer, extra, _zero_gradient(gradients, params)),
        shapes={p: _shape_of(leaf) for p, leaf in leaves.items() if is_inexact(leaf)},
        roles={path: role.name for path, role in roles(params).items()},
        sizes={path: _size(leaf) for path, leaf in leaves.items()},
        own_dtypes=measured,
        float32=_to_float32(measured),
        elementwise=elementwise,
        sampled=sample and measured != own_dtypes,
        steps=steps,
    )


def _treats_alike(optimizer: Any, cut: Any, extra: ExtraArgs, program: Any) -> bool:
    """Whether the optimizer runs the same operations on smaller shapes.

    Some decide by shape, for example in a mask function.
    """
    try:
        smaller = trace_update(optimizer, _to_float32(cut), extra)
        return same_operations(smaller, program)
    except Exception:  # only the smaller shapes fail, for whatever reason
        return False


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype_of(leaf))


def _to_float32(shapes: Any) -> Any:
    """The shapes with 16-bit floats as float32."""
    return jax.tree.map(to_float32, shapes)


def _cut(leaf: jax.ShapeDtypeStruct, limit: int) -> jax.ShapeDtypeStruct:
    """Halve the longest axis until the shape has about ``limit`` weights at most.

    No axis becomes shorter than 2, so that the optimizer still sees a matrix.
    """
    shape = list(leaf.shape)
    while np.prod(shape, dtype=float) > limit and max(shape) > 2:
        longest = shape.index(max(shape))
        shape[longest] = max(2, shape[longest] // 2)
    return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)


def _size(leaf: Any) -> float:
    """The root mean square of a leaf; 1 if its values are unknown or all 0."""
    if isinstance(leaf, jax.ShapeDtypeStruct) or not is_concrete(leaf):
        return 1.0
    if not is_inexact(leaf) or np.size(leaf) == 0:
        return 1.0
    rms = float(_root_mean_square(to_float32(leaf)))
    return rms if 0 < rms < np.inf else 1.0


@jax.jit
def _root_mean_square(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.abs(x) ** 2))


def initial_weights(
    plan: ProbePlan, shapes: Any, setting: Setting, seed: int = 0
) -> optax.Params:
    """Normal weights: each leaf has its own size times that of the setting.

    All settings get the same weights up to the size, so that the rates of single
    weights can be compared.
    """
    size = count_numbers(shapes)
    # One row is enough. As many as for the gradients use the same compiled program.
    steps = np.full(steps_per_call(size), INITIAL_WEIGHTS_STEP)
    numbers = normal(jax.random.key(seed), steps, size)[0]
    scale = setting.weight_scale
    return scaled_tree(numbers, shapes, lambda path: scale * plan.sizes[path])


def _zero_gradient(gradients: Any, params: optax.Params) -> frozenset[Path]:
    """The leaves whose example gradients are None or 0 in all elements."""
    if gradients is None:
        return frozenset()
    given = dict(leaves_with_path(gradients))
    if differing := given.keys() ^ dict(leaves_with_path(params)).keys():
        raise ValueError(
            "audit: gradients and params must be the same tree, but only one of them "
            f"has the leaf {path_str(min(differing))}. Pass example gradients of these "
            "params."
        )
    return frozenset(
        path for path, g in given.items() if is_masked_leaf(g) or not np.any(g)
    )


def _extra_args(
    optimizer: Any, shapes: Any, given: dict[str, Any] | None
) -> tuple[ExtraArgs, ClosedJaxpr]:
    """The keyword arguments that ``update`` needs, and its program with them."""

    def given_only(step: Any) -> dict[str, Any]:
        return given or {}

    def with_value(step: Any) -> dict[str, Any]:
        # It falls, so that schedules that react to a plateau change nothing.
        return {"value": 1.0 / (1.0 + jnp.asarray(step, jnp.float32))} | (given or {})

    reasons = []
    for extra_args in (given_only, with_value):
        try:
            return extra_args, trace_update(optimizer, shapes, extra_args)
        except Exception as error:
            if not re.search(MISSING_ARGUMENT, str(error)):
                error.add_note(
                    "audit: the optimizer raised this error inside a jitted step."
                )
                raise
            reasons.append(str(error))
    raise NotAuditable(reasons[0])
