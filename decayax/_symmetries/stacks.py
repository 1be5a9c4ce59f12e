"""Which parameters hold a stack of layers, and along which axis, from the program.

A parameter is a stack along an axis if the program takes its slices one by one:

    scan         the parameter is scanned over
    a loop       it is indexed in the body of a scan
    an index     every slice is taken, as in ``w[0]``, ``w[1]``, ...
    vmap         a matrix product or convolution has the axis as a batch axis

The biases and norms of a layer take part in no matrix product. So the other parameters
of the subtree are stacked as well, if all of them share the size of the axis.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend import core

from decayax._core.paths import Path
from decayax._jaxpr.dataflow import CALLS, closed_subjaxprs, shape_of
from decayax._symmetries.float64 import IDENTITIES


class _View(NamedTuple):
    """A whole parameter with its axes in another order."""

    parameter: int
    axes: tuple[int, ...]  # of the parameter, for each axis of the view


class _Found(NamedTuple):
    """The evidence: pairs of parameter and axis, and the indices of single slices."""

    stacks: set[tuple[int, int]]
    indices: dict[tuple[int, int], set[int]]


def stacked_axes(
    program: core.ClosedJaxpr, paths: Sequence[Path], shapes: Sequence[tuple[int, ...]]
) -> dict[int, int]:
    """The axis of the stack for every input of the program that is one."""
    views = [_View(i, tuple(range(len(shape)))) for i, shape in enumerate(shapes)]
    found = _Found(set(), {})
    _search(program.jaxpr, views, found, in_loop=False)
    for (i, axis), taken in found.indices.items():
        if len(taken) == shapes[i][axis]:
            found.stacks.add((i, axis))
    axes = {i: axis for i, axis in sorted(found.stacks) if shapes[i][axis] > 1}
    for i, axis in list(axes.items()):
        for other in _subtree(i, axis, paths, shapes):
            axes.setdefault(other, axis)
    return axes


def _subtree(
    i: int, axis: int, paths: Sequence[Path], shapes: Sequence[tuple[int, ...]]
) -> list[int]:
    """The parameters of the largest subtree around one that share its stack."""
    size = shapes[i][axis]
    members = [i]
    for length in range(len(paths[i]) - 1, -1, -1):
        inside = [
            j for j, path in enumerate(paths) if path[:length] == paths[i][:length]
        ]
        if not all(shapes[j][axis : axis + 1] == (size,) for j in inside):
            break
        members = inside
    return members


def _search(
    jaxpr: core.Jaxpr,
    inputs: Sequence[_View | None],
    found: _Found,
    *,
    in_loop: bool,
) -> None:
    views = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> _View | None:
        return None if isinstance(atom, core.Literal) else views.get(atom)

    for eqn in jaxpr.eqns:
        arguments = [read(atom) for atom in eqn.invars]
        if not any(arguments):
            continue
        name = eqn.primitive.name
        if name in IDENTITIES or name == "convert_element_type":
            views |= zip(eqn.outvars, arguments, strict=False)
        elif name == "transpose" and arguments[0]:
            view = arguments[0]
            order = [view.axes[i] for i in eqn.params["permutation"]]
            views[eqn.outvars[0]] = _View(view.parameter, tuple(order))
        elif name == "scan":
            _search_scan(eqn, arguments, found)
        else:
            _note(eqn, arguments, found, in_loop)
            operands = arguments[1:] if name == "cond" else arguments
            for inner in closed_subjaxprs(eqn):
                is_call = name in CALLS or name == "cond"
                if is_call and len(inner.jaxpr.invars) == len(operands):
                    _search(inner.jaxpr, operands, found, in_loop=in_loop)


def _search_scan(
    eqn: core.JaxprEqn, arguments: list[_View | None], found: _Found
) -> None:
    num_consts = eqn.params["num_consts"]
    start = num_consts + eqn.params["num_carry"]
    scanned = [view for view in arguments[start:] if view]
    found.stacks.update((view.parameter, view.axes[0]) for view in scanned)
    body = eqn.params["jaxpr"].jaxpr
    rest = [None] * (len(arguments) - num_consts)
    _search(body, [*arguments[:num_consts], *rest], found, in_loop=True)


def _note(
    eqn: core.JaxprEqn, arguments: list[_View | None], found: _Found, in_loop: bool
) -> None:
    """Add what one operation shows about the parameters that it reads."""
    name = eqn.primitive.name
    if name == "dot_general":
        _, batch = eqn.params["dimension_numbers"]
        for view, axes in zip(arguments, batch, strict=True):
            if view:
                found.stacks.update((view.parameter, view.axes[a]) for a in axes)
    view = arguments[0]
    if view is None or name not in ("slice", "dynamic_slice"):
        return
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    cut = [a for a, size in enumerate(before) if after[a] != size]
    if len(cut) != 1 or after[cut[0]] != 1 or len(before) == 1:
        return
    key = (view.parameter, view.axes[cut[0]])
    if name == "slice":
        index = eqn.params["start_indices"][cut[0]]
        found.indices.setdefault(key, set()).add(index)
    elif in_loop:
        found.stacks.add(key)
