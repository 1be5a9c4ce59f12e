"""What `audit` measures: which programs, on weights of which shapes and sizes.

Leaves that an optimizer treats alike are measured once: see `_jaxpr.quotient`. Most of
the time is compilation, so a program with few leaves is ten times faster.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._audit.arguments import extra_arguments, with_axis_names
from decayax._audit.draws import count_numbers, normal, scaled_tree, steps_per_call
from decayax._audit.probe import ProbedOptimizer
from decayax._audit.readings import Setting
from decayax._audit.shapes import gradient_masks, smaller_shapes
from decayax._core.dtypes import dtype_of, is_inexact, to_float32
from decayax._core.parameters import require_parameters
from decayax._core.paths import is_masked_leaf, leaves_with_path, Path
from decayax._core.strength import is_concrete
from decayax._jaxpr.dataflow import Kind
from decayax._jaxpr.dependence import update_kind
from decayax._jaxpr.quotient import quotient
from decayax._jaxpr.trace import ExtraArgs, OptimizerProgram, trace_optimizer
from decayax.masks._roles import roles


# Gradients are drawn from the step indices 0, 1, 2, ... The weights are drawn from an
# index that no gradient has.
INITIAL_WEIGHTS_STEP = np.uint32(2**31)
T = TypeVar("T")
SIZE_RTOL = 0.05  # leaves whose sizes differ by less are measured at one size


class Program(NamedTuple):
    """An optimizer to run, and where each leaf of the params is found in it.

    A unit is a leaf of the program at one size of its weights.
    """

    probed: ProbedOptimizer
    shapes: Any  # the tree of its params
    sizes: np.ndarray  # (lanes, inexact leaves of the program): root mean squares
    units: tuple[tuple[int, int], ...]  # lane and leaf of the program
    unit_of: tuple[int, ...]  # the unit of each inexact leaf of the params

    @property
    def lanes(self) -> int:
        """How many sizes of the weights are measured side by side."""
        return len(self.sizes)

    def for_each_leaf(self, of_units: Sequence[T]) -> list[T]:
        """What was found of each unit, for each inexact leaf of the params."""
        return [of_units[unit] for unit in self.unit_of]

    def inexact_shapes(self) -> list[jax.ShapeDtypeStruct]:
        """The shapes of the inexact leaves of the program."""
        return [x for x in jax.tree.leaves(self.shapes) if is_inexact(x)]


class Plan(NamedTuple):
    """What to measure."""

    optimizer: Any
    axis_names: tuple[str, ...]
    extra_args: ExtraArgs
    shapes: dict[Path, jax.ShapeDtypeStruct]  # of the inexact leaves, in order
    roles: dict[Path, str]
    whole: Any  # the tree of all shapes
    measured: Any  # the tree of the shapes to measure, perhaps a sample
    # shapes of the inexact leaves -> what multiplies the gradients of each
    masks_of: Callable[[list[jax.ShapeDtypeStruct]], tuple[Any, ...]]
    sizes: tuple[float, ...]  # of each inexact leaf: root mean square of the weights
    kind: Kind  # how the updates depend on gradients and weights
    steps: int
    forced: bool  # the user wants a sample
    traced: OptimizerProgram  # in float32

    @property
    def elementwise(self) -> bool:
        """Whether each update depends on its own weight and gradient only."""
        return self.kind <= Kind.ALIGNED

    @property
    def sampled(self) -> bool:
        """Whether a part of the weights is measured."""
        return self.measured != self.whole

    def program(self, *, own_dtypes: bool = False, optimizer: Any = None) -> Program:
        """What to run: 16-bit floats as float32, or in their ``own_dtypes``."""
        if not own_dtypes and optimizer is None:
            return make_program(self, self.wrapped(self.optimizer), self.traced)
        shapes = self.measured if own_dtypes else _to_float32(self.measured)
        wrapped = self.wrapped(optimizer or self.optimizer)
        traced = trace_optimizer(wrapped, shapes, self.extra_args)
        return make_program(self, wrapped, traced)

    def wrapped(self, optimizer: Any) -> Any:
        """The optimizer with the names of the axes bound."""
        return with_axis_names(optimizer, self.axis_names)

    def with_shapes(self, shapes: Any) -> "Plan":
        """The plan to measure leaves of other shapes."""
        float32 = _to_float32(shapes)
        wrapped = self.wrapped(self.optimizer)
        traced = trace_optimizer(wrapped, float32, self.extra_args)
        return self._replace(measured=shapes, traced=traced)


def make_plan(
    optimizer: Any,
    params: optax.Params,
    *,
    gradients: Any,
    extra_args: dict[str, Any] | None,
    axis_names: tuple[str, ...],
    sample: bool | None,
    steps: int,
) -> Plan:
    """Decide what to measure. It takes the arguments of `audit`."""
    require_parameters("audit", params)
    leaves = {p: x for p, x in leaves_with_path(params) if not is_masked_leaf(x)}
    inexact = {path: leaf for path, leaf in leaves.items() if is_inexact(leaf)}
    own_dtypes = jax.tree.map(_shape_of, params)
    wrapped = with_axis_names(optimizer, axis_names)
    arguments, program = extra_arguments(wrapped, _to_float32(own_dtypes), extra_args)
    kind = update_kind(program)
    measured, traced = own_dtypes, program
    if sample is not False:
        measured, traced = smaller_shapes(
            wrapped, own_dtypes, arguments, program, kind, forced=bool(sample)
        )
    return Plan(
        optimizer=optimizer,
        axis_names=axis_names,
        extra_args=arguments,
        shapes={path: _shape_of(leaf) for path, leaf in inexact.items()},
        roles={path: role.name for path, role in roles(params).items()},
        whole=own_dtypes,
        measured=measured,
        masks_of=functools.partial(gradient_masks, gradients, params, list(inexact)),
        sizes=tuple(map(_size, inexact.values())),
        kind=kind,
        steps=steps,
        forced=bool(sample),
        traced=traced,
    )


def make_program(plan: Plan, optimizer: Any, traced: OptimizerProgram) -> Program:
    """The optimizer on one leaf of each class of leaves that it treats alike."""
    shapes = traced.params
    leaves = jax.tree.leaves(shapes)
    inexact = [index for index, leaf in enumerate(leaves) if is_inexact(leaf)]
    masks = dict(zip(inexact, plan.masks_of([leaves[i] for i in inexact]), strict=True))
    keys = [np.asarray(masks.get(i, 0.0)).tobytes() for i in range(len(leaves))]
    classes = quotient(traced, keys)
    if classes is None:
        probed = ProbedOptimizer(
            init=optimizer.init,
            update_at=lambda grads, state, params, time: optimizer.update(
                grads, state, params, **plan.extra_args(time)
            ),
            gradient_masks=tuple(masks.values()),
        )
        units = tuple((0, index) for index in range(len(inexact)))
        unit_of = tuple(range(len(inexact)))
        return Program(probed, shapes, np.array([plan.sizes]), units, unit_of)
    chosen = [i for i in classes.representative if i in masks]
    probed = ProbedOptimizer(
        init=classes.init,
        update_at=classes.update,
        gradient_masks=tuple(masks[i] for i in chosen),
    )
    position = {classes.class_of[i]: n for n, i in enumerate(chosen)}
    class_of = [position[classes.class_of[i]] for i in inexact]
    sizes, lanes = _lanes(plan.sizes, class_of)
    representatives = [leaves[i] for i in classes.representative]
    where = list(zip(lanes, class_of, strict=True))
    units = tuple(dict.fromkeys(where))
    number_of = {unit: number for number, unit in enumerate(units)}
    unit_of = tuple(number_of[unit] for unit in where)
    return Program(probed, representatives, sizes, units, unit_of)


def _lanes(
    sizes: Sequence[float], class_of: Sequence[int]
) -> tuple[np.ndarray, list[int]]:
    """The sizes (lanes, classes) to measure, and the lane of each leaf.

    A class has as many lanes as its leaves have different sizes. The other classes
    repeat their last size.
    """
    per_class: list[list[float]] = [[] for _ in range(max(class_of, default=-1) + 1)]
    lanes = []
    for size, own in zip(sizes, class_of, strict=True):
        near = [abs(size / other - 1.0) < SIZE_RTOL for other in per_class[own]]
        if True not in near:
            per_class[own].append(size)
        lanes.append(near.index(True) if True in near else len(near))
    count = max(map(len, per_class), default=1)
    padded = [[*own, *[own[-1]] * (count - len(own))] for own in per_class]
    return np.array(padded).reshape(len(per_class), count).T, lanes


def initial_weights(program: Program, setting: Setting, seed: int = 0) -> optax.Params:
    """Normal weights: each leaf has its own size times that of the setting.

    All settings get the same weights up to the size, so that the rates of single
    weights can be compared. If there are several lanes, they are the first axis.
    """
    size = count_numbers(program.shapes)
    # One row is enough. As many as for the gradients use the same compiled program.
    steps = np.full(steps_per_call(size), INITIAL_WEIGHTS_STEP)
    numbers = normal(jax.random.key(seed), steps, size)[0]
    lanes = [
        scaled_tree(numbers, program.shapes, [setting.weight_scale * x for x in sizes])
        for sizes in program.sizes.tolist()
    ]
    if program.lanes == 1:
        return lanes[0]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *lanes)


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype_of(leaf))


def _to_float32(shapes: Any) -> Any:
    """The shapes with 16-bit floats as float32."""
    return jax.tree.map(to_float32, shapes)


def _size(leaf: Any) -> float:
    """The root mean square of a leaf; 1 if its values are unknown or all 0."""
    if isinstance(leaf, jax.ShapeDtypeStruct) or not is_concrete(leaf):
        return 1.0
    if np.size(leaf) == 0:
        return 1.0
    rms = float(_root_mean_square(to_float32(leaf)))
    return rms if 0 < rms < math.inf else 1.0


@jax.jit
def _root_mean_square(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.abs(x) ** 2))
