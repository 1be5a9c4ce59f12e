"""The shapes to measure: a sample of each leaf, where it shows the same as the leaf."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from decayax._core.dtypes import to_float32
from decayax._core.paths import is_masked_leaf, leaves_with_path, Path, path_str
from decayax._jaxpr.dataflow import Kind
from decayax._jaxpr.dependence import same_operations
from decayax._jaxpr.trace import ExtraArgs, OptimizerProgram, trace_optimizer


# The standard error of a leaf's rate is the spread of single weights over √n.
MAX_MATRIX_SAMPLE, MAX_VECTOR_SAMPLE = 4096, 256
# An optimizer that mixes weights may treat matrices with short axes differently. If no
# axis becomes shorter than one of these, perhaps it treats them alike.
MIN_AXES = (8, 128)
# A number such as √(rows/columns) changes a little if the axes are cut.
LITERAL_RTOL = 1e-3


def smaller_shapes(
    optimizer: Any,
    shapes: Any,
    extra_args: ExtraArgs,
    program: OptimizerProgram,
    kind: Kind,
    *,
    forced: bool,
) -> tuple[Any, OptimizerProgram]:
    """A tree of smaller shapes on which the optimizer runs the same operations.

    Without such a tree, the result is ``shapes``. If ``forced``, the first smaller tree
    is taken without a comparison of the operations. The second result is the optimizer,
    traced for the shapes of the first.
    """
    rtol = 0.0 if kind <= Kind.COUPLED else LITERAL_RTOL
    for cut in _candidates(shapes, kind):
        if cut == shapes:
            break
        try:
            smaller = trace_optimizer(
                optimizer, jax.tree.map(to_float32, cut), extra_args
            )
        except Exception:  # only the smaller shapes fail, for whatever reason
            continue
        if forced or _run_alike(smaller, program, rtol):
            return cut, smaller
    return shapes, program


def _run_alike(first: OptimizerProgram, second: OptimizerProgram, rtol: float) -> bool:
    """Whether two programs run the same operations on leaves of other shapes.

    Some decide by shape, for example in a mask function.
    """
    return same_operations(first.init, second.init, rtol) and same_operations(
        first.update, second.update, rtol
    )


def _candidates(shapes: Any, kind: Kind) -> list[Any]:
    if kind <= Kind.COUPLED:
        return [jax.tree.map(_cut, shapes)]
    return [
        jax.tree.map(lambda leaf: _cut_evenly(leaf, shortest), shapes)  # noqa: B023
        for shortest in MIN_AXES
    ]


def _cut(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Shorten the long axes to one length, so that many leaves have the same shape.

    No axis becomes shorter than 2, so that the optimizer still sees a matrix.
    """
    limit = MAX_VECTOR_SAMPLE if len(leaf.shape) == 1 else MAX_MATRIX_SAMPLE
    longest = 2
    while _count(leaf.shape, 2 * longest) <= limit and longest < max(
        leaf.shape, default=0
    ):
        longest *= 2
    shape = tuple(min(axis, longest) for axis in leaf.shape)
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _count(shape: tuple[int, ...], longest: int) -> float:
    return np.prod([min(axis, longest) for axis in shape], dtype=float)


def _cut_evenly(leaf: jax.ShapeDtypeStruct, shortest: int) -> jax.ShapeDtypeStruct:
    """Halve all long axes together, which keeps their ratio."""
    shape = leaf.shape
    while np.prod(shape, dtype=float) > MAX_MATRIX_SAMPLE:
        halved = tuple(axis // 2 if axis >= shortest else axis for axis in shape)
        long = [axis for axis in shape if axis >= shortest]
        if not long or min(long) // 2 < shortest:
            break
        shape = halved
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def gradient_masks(
    gradients: Any,
    params: optax.Params,
    inexact: Sequence[Path],
    shapes: Sequence[jax.ShapeDtypeStruct],
) -> tuple[Any, ...]:
    """What multiplies the random gradients of each inexact leaf.

    1, or 0 if the example gradient is None or 0. If it is 0 in some elements only, an
    array of the leaf's measured shape.
    """
    if gradients is None:
        return (1.0,) * len(shapes)
    given = dict(leaves_with_path(gradients))
    if differing := given.keys() ^ dict(leaves_with_path(params)).keys():
        raise ValueError(
            "audit: gradients and params must be the same tree, but only one of them "
            f"has the leaf {path_str(min(differing))}. Pass example gradients of these "
            "params."
        )
    own_shapes = {path: np.shape(leaf) for path, leaf in leaves_with_path(params)}
    for path in inexact:
        if (
            not is_masked_leaf(given[path])
            and np.shape(given[path]) != own_shapes[path]
        ):
            raise ValueError(
                f"audit: the gradient of {path_str(path)} has the shape "
                f"{np.shape(given[path])}, the parameter {own_shapes[path]}. Pass "
                "example gradients of these params."
            )
    return tuple(
        _gradient_mask(given[path], leaf.shape)
        for path, leaf in zip(inexact, shapes, strict=True)
    )


def _gradient_mask(gradient: Any, shape: tuple[int, ...]) -> Any:
    if is_masked_leaf(gradient):
        return 0.0
    nonzero = np.asarray(gradient) != 0
    if nonzero.all() or not nonzero.any():
        return float(nonzero.any())
    if nonzero.shape == shape:
        return nonzero.astype(np.float32)
    rows = nonzero.reshape(len(nonzero), -1).any(1)
    if not rows.all() and shape[0] > 1:
        # As large a part of the rows gets gradients, but at least one row, and not all.
        count = min(max(round(rows.mean() * shape[0]), 1), shape[0] - 1)
        mask = np.zeros(shape, np.float32)
        mask[:count] = 1.0
        return mask
    # Multiples of an irrational number are spread evenly over [0, 1).
    spread = np.arange(np.prod(shape)) * 0.618034 % 1.0
    return (spread < nonzero.mean()).reshape(shape).astype(np.float32)


def halved(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Halve all axes that remain at least 2."""
    shape = tuple(axis // 2 if axis >= 4 else axis for axis in leaf.shape)
    return jax.ShapeDtypeStruct(shape, leaf.dtype)
