"""What to follow: an optimizer, what else it is called with, and on which weights."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from decayax._audit.noise import count, normal, shaped, steps_at_once
from decayax._audit.probe import Run
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
from decayax._jaxpr.dependence import mixes, outline, program_of
from decayax.masks._resolve import require_parameters
from decayax.masks._roles import roles


MOST = 2**15  # weights followed of an elementwise optimizer, over all leaves
OF_ONE = 64, 4096  # fewest and most of each leaf
BEFORE = np.uint32(2**31)  # the step, as it were, that draws the weights
LACKS = "missing|required|must be provided|need to pass"  # an argument of update


class Missing(Exception):
    """The optimizer needs an argument that cannot be made up."""


class Plan(NamedTuple):
    """What to follow, and on which weights."""

    optimizer: Any
    extra_args: Callable[[Any], dict[str, Any]]  # step -> keywords
    still: frozenset[Path]
    paths: list[Path]  # of the inexact leaves, in order
    given: dict[Path, Any]  # shapes and dtypes as they are
    roles: dict[Path, str]
    sizes: dict[Path, float]  # of the weights
    narrow: Any  # the tree to follow, in the dtypes as they are
    wide: Any  # the same with 16-bit floats as float32
    elementwise: bool
    sampled: bool
    steps: int

    def counts(self) -> list[int]:
        """How many weights of each inexact leaf are followed."""
        shapes = dict(leaves_with_path(self.wide))
        return [math.prod(shapes[path].shape) for path in self.paths]

    @property
    def run(self) -> Run:
        return Run(self.optimizer, self.extra_args, self.still)


def plan_of(
    optimizer: Any,
    params: Any,
    gradients: Any,
    extra_args: dict[str, Any] | None,
    sample: bool | None,
    steps: int,
) -> Plan:
    """What `audit` was asked to follow; the arguments are its own."""
    require_parameters("audit", params)
    narrow = jax.tree.map(_shape_of, params)
    flat, _ = flatten_with_path(narrow)
    given = {path: leaf for path, leaf in flat if not is_masked_leaf(leaf)}
    wide = _wide(narrow)
    extra = _extra_args(optimizer, wide, extra_args)
    program = program_of(optimizer, wide, extra)
    elementwise = not mixes(optimizer, wide, program)
    limit = int(np.clip(MOST // max(len(given), 1), *OF_ONE))
    cut = jax.tree.map(functools.partial(_cut, limit), narrow)
    if sample is None:
        sample = elementwise and _alike(optimizer, cut, extra, program)
    followed = cut if sample else narrow
    return Plan(
        optimizer=optimizer,
        extra_args=extra,
        still=_still(gradients, {path for path, _ in flat}),
        paths=[path for path, leaf in given.items() if is_inexact(leaf)],
        given=given,
        roles={path: role.name for path, role in roles(params).items()},
        sizes=_sizes(params),
        narrow=followed,
        wide=_wide(followed),
        elementwise=elementwise,
        sampled=sample and followed != narrow,
        steps=steps,
    )


def _alike(optimizer: Any, part: Any, extra_args: Any, whole: Any) -> bool:
    """Whether an optimizer does the same to smaller shapes: some decide by shape."""
    try:
        program = program_of(optimizer, _wide(part), extra_args)
    except Exception:  # whatever it is, with the shapes as they are there was none
        return False
    return outline(program) == outline(whole)


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype_of(leaf))


def _wide(shapes: Any) -> Any:
    """The shapes with 16-bit floats as float32."""
    return jax.tree.map(to_float32, shapes)


def _cut(limit: int, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """A shape with the same axes and at most about ``limit`` weights."""
    shape = list(leaf.shape)
    while np.prod(shape, dtype=float) > limit and max(shape) > 2:
        longest = shape.index(max(shape))
        shape[longest] = max(2, shape[longest] // 2)
    return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)


def _sizes(params: Any) -> dict[Path, float]:
    """The root mean square of every leaf whose values are here, else 1."""

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
def _root_mean_square(wide: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.abs(wide) ** 2))


def weights(plan: Plan, shapes: Any, setting: Setting, draw: int = 0) -> Any:
    """Normal weights of each leaf's own size, times the setting's.

    The same for every setting: single weights are compared from one to the next.
    """
    flat, treedef = flatten_with_path(shapes)
    leaves = [leaf for _, leaf in flat]
    size = count(leaves)
    many = np.full(steps_at_once(size), BEFORE)  # as for gradients: the same program
    noise = shaped(normal(jax.random.key(draw), many, size)[0], leaves)

    def scaled(path: Path, leaf: Any, noise: Any) -> Any:
        if is_masked_leaf(leaf):
            return leaf
        if noise is None:
            return jnp.zeros(leaf.shape, leaf.dtype)
        return (setting.weight_scale * plan.sizes[path] * noise).astype(leaf.dtype)

    return treedef.unflatten(
        scaled(*leaf, x) for leaf, x in zip(flat, noise, strict=True)
    )


def _still(gradients: Any, paths: set[Path]) -> frozenset[Path]:
    """The leaves whose example gradients are 0 throughout, or None."""
    if gradients is None:
        return frozenset()
    if strays := {path for path, _ in leaves_with_path(gradients)} ^ paths:
        raise ValueError(
            f"audit: gradients and params are different trees: {path_str(min(strays))} is "
            "in one of them only."
        )
    return frozenset(
        path
        for path, g in leaves_with_path(gradients)
        if is_masked_leaf(g) or not np.any(g)
    )


def _extra_args(optimizer: Any, shapes: Any, given: dict[str, Any] | None) -> Any:
    """The further arguments without which ``update`` cannot be called."""

    def makeup(*names: str) -> Callable[[Any], dict[str, Any]]:
        def extra(step: Any) -> dict[str, Any]:
            falling = 1.0 / (1.0 + jnp.asarray(step, jnp.float32))  # no plateau
            return dict.fromkeys(names, falling) | (given or {})

        return extra

    failed = None
    for names in ((), ("value",)):
        extra = makeup(*names)

        def step(params: Any, extra: Any = extra) -> Any:
            state = optimizer.init(params)
            return optimizer.update(params, state, params, **extra(0))

        try:
            jax.eval_shape(step, shapes)
        except Exception as error:
            if not re.search(LACKS, str(error)):
                error.add_note("audit: raised by the optimizer in a jitted step.")
                raise
            failed = failed or error
        else:
            return extra
    raise Missing(str(failed))
