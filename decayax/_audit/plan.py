"""What `audit` measures: an optimizer, its extra arguments, and on which weights."""

import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._audit.draws import (
    count_numbers,
    cut_into_leaves,
    normal,
    steps_per_call,
)
from decayax._audit.probe import ProbedOptimizer
from decayax._audit.readings import Setting
from decayax._core.dtypes import compute_dtype, dtype_of, is_inexact, to_float32
from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    leaves_with_path,
    Path,
    path_str,
)
from decayax._core.strength import is_concrete
from decayax._jaxpr.dependence import (
    ExtraArgs,
    is_elementwise,
    same_operations,
    trace_update,
)
from decayax.masks._resolve import require_parameters
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

    optimizer: Any  # with init and update
    extra_args: ExtraArgs
    zero_gradient: frozenset[Path]  # leaves whose gradients are 0
    paths: list[Path]  # of the inexact leaves, in order
    shapes: dict[Path, jax.ShapeDtypeStruct]  # of all leaves, as the user has them
    roles: dict[Path, str]
    sizes: dict[Path, float]  # root mean square of the weights
    own_dtypes: Any  # the tree of shapes to measure, perhaps a sample
    float32: Any  # the same with 16-bit floats as float32
    elementwise: bool
    sampled: bool
    steps: int

    def weight_counts(self) -> list[int]:
        """How many weights of each inexact leaf are measured."""
        shapes = dict(leaves_with_path(self.float32))
        return [math.prod(shapes[path].shape) for path in self.paths]

    @property
    def probed(self) -> ProbedOptimizer:
        """The optimizer, as the probes take it."""
        return ProbedOptimizer(self.optimizer, self.extra_args, self.zero_gradient)


def make_plan(
    optimizer: Any,
    params: optax.Params,
    gradients: Any,
    extra_args: dict[str, Any] | None,
    sample: bool | None,
    steps: int,
) -> ProbePlan:
    """Decide what to measure. The arguments are those of `audit`."""
    require_parameters("audit", params)
    own_dtypes = jax.tree.map(_shape_of, params)
    flat, _ = flatten_with_path(own_dtypes)
    shapes = {path: leaf for path, leaf in flat if not is_masked_leaf(leaf)}
    float32 = _to_float32(own_dtypes)
    extra = _extra_args(optimizer, float32, extra_args)
    program = trace_update(optimizer, float32, extra)
    elementwise = is_elementwise(optimizer, float32, program)
    per_leaf = MAX_SAMPLE // max(len(shapes), 1)
    limit = min(max(per_leaf, MIN_LEAF_SAMPLE), MAX_LEAF_SAMPLE)
    cut = jax.tree.map(functools.partial(_cut, limit), own_dtypes)
    if sample is None:
        sample = elementwise and _treats_alike(optimizer, cut, extra, program)
    measured = cut if sample else own_dtypes
    return ProbePlan(
        optimizer=optimizer,
        extra_args=extra,
        zero_gradient=_zero_gradient(gradients, {path for path, _ in flat}),
        paths=[path for path, leaf in shapes.items() if is_inexact(leaf)],
        shapes=shapes,
        roles={path: role.name for path, role in roles(params).items()},
        sizes=_sizes(params),
        own_dtypes=measured,
        float32=_to_float32(measured),
        elementwise=elementwise,
        sampled=sample and measured != own_dtypes,
        steps=steps,
    )


def _treats_alike(
    optimizer: Any, cut: Any, extra_args: ExtraArgs, program: Any
) -> bool:
    """Whether the optimizer runs the same operations on smaller shapes.

    Some decide by shape, for example in a mask function.
    """
    try:
        cut_program = trace_update(optimizer, _to_float32(cut), extra_args)
    except Exception:  # only the smaller shapes fail, for whatever reason
        return False
    return same_operations(cut_program, program)


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype_of(leaf))


def _to_float32(shapes: Any) -> Any:
    """The shapes with 16-bit floats as float32."""
    return jax.tree.map(to_float32, shapes)


def _cut(limit: int, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Halve the longest axis until the shape has about ``limit`` weights at most.

    No axis becomes shorter than 2, so that the optimizer still sees a matrix.
    """
    shape = list(leaf.shape)
    while np.prod(shape, dtype=float) > limit and max(shape) > 2:
        longest = shape.index(max(shape))
        shape[longest] = max(2, shape[longest] // 2)
    return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)


def _sizes(params: optax.Params) -> dict[Path, float]:
    """The root mean square of each leaf; 1 if its values are unknown or all 0."""

    def size(leaf: Any) -> float:
        if isinstance(leaf, jax.ShapeDtypeStruct) or not is_concrete(leaf):
            return 1.0
        if not is_inexact(leaf) or np.size(leaf) == 0:
            return 1.0
        rms = float(_root_mean_square(jnp.asarray(leaf, compute_dtype(leaf))))
        return rms if 0 < rms < np.inf else 1.0

    return {
        path: size(leaf)
        for path, leaf in leaves_with_path(params)
        if not is_masked_leaf(leaf)
    }


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
    flat, treedef = flatten_with_path(shapes)
    leaves = [leaf for _, leaf in flat]
    size = count_numbers(leaves)
    # One row is enough. As many as for the gradients use the same compiled program.
    steps = np.full(steps_per_call(size), INITIAL_WEIGHTS_STEP)
    noise = cut_into_leaves(normal(jax.random.key(seed), steps, size)[0], leaves)

    def weights(path: Path, leaf: Any, noise: Any) -> Any:
        if is_masked_leaf(leaf):
            return leaf
        if noise is None:
            return jnp.zeros(leaf.shape, leaf.dtype)
        return (setting.weight_scale * plan.sizes[path] * noise).astype(leaf.dtype)

    return treedef.unflatten(
        weights(path, leaf, x) for (path, leaf), x in zip(flat, noise, strict=True)
    )


def _zero_gradient(gradients: Any, paths: set[Path]) -> frozenset[Path]:
    """The leaves whose example gradients are None or 0 in all elements."""
    if gradients is None:
        return frozenset()
    if differing := {path for path, _ in leaves_with_path(gradients)} ^ paths:
        raise ValueError(
            "audit: gradients and params must be the same tree, but only one of them "
            f"has the leaf {path_str(min(differing))}. Pass example gradients of these "
            "params."
        )
    return frozenset(
        path
        for path, gradient in leaves_with_path(gradients)
        if is_masked_leaf(gradient) or not np.any(gradient)
    )


def _extra_args(optimizer: Any, shapes: Any, given: dict[str, Any] | None) -> ExtraArgs:
    """The keyword arguments that ``update`` needs: those given, and perhaps `value`."""

    def made_up(*names: str) -> ExtraArgs:
        def extra_args(step: Any) -> dict[str, Any]:
            # It falls, so that schedules that react to a plateau change nothing.
            value = 1.0 / (1.0 + jnp.asarray(step, jnp.float32))
            return dict.fromkeys(names, value) | (given or {})

        return extra_args

    first_error = None
    for extra_args in (made_up(), made_up("value")):
        try:
            jax.eval_shape(functools.partial(_one_step, optimizer, extra_args), shapes)
        except Exception as error:
            if not re.search(MISSING_ARGUMENT, str(error)):
                error.add_note(
                    "audit: the optimizer raised this error inside a jitted step."
                )
                raise
            first_error = first_error or error
        else:
            return extra_args
    raise NotAuditable(str(first_error))


def _one_step(optimizer: Any, extra_args: ExtraArgs, params: optax.Params) -> Any:
    """The first update; the params also serve as gradients."""
    state = optimizer.init(params)
    return optimizer.update(params, state, params, **extra_args(0))
