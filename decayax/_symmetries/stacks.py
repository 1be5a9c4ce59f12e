"""Which parameters hold a stack of layers, and along which axis, from the program.

A parameter is a stack along an axis if the program takes its slices one by one:

    scan      the parameter is scanned over
    a loop    it is indexed in the body of a scan
    an index  all slices are taken, as in ``w[0]``, ``w[1]``, or those of a product
              with the parameter, as in a joint projection to queries, keys and values
    vmap      the axis is a batch axis of a matrix product inside ``jax.vmap``

Axes are followed through the program. Parameters that meet along an axis, such as a
kernel and its bias, are stacked together. So are the parameters of a subtree that all
share the size of the axis.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend import core

from decayax._core.paths import Path
from decayax._jaxpr.dataflow import closed_subjaxprs, ELEMENTWISE, shape_of
from decayax._symmetries.constants import called
from decayax._symmetries.float64 import IDENTITIES


Axis = tuple[int, int]  # a parameter and one of its axes
Origins = frozenset[Axis]  # the axes that one axis of a value comes from
NOWHERE: Origins = frozenset()
REDUCTIONS = ("argmax", "argmin", "reduce_")


class _Flow(NamedTuple):
    """Where the axes of a value come from."""

    axes: tuple[Origins, ...]
    is_parameter: bool  # a whole parameter, perhaps with its axes in another order


class _Found(NamedTuple):
    """The evidence."""

    stacks: set[Axis]
    taken: dict[Axis, set[int]]  # the indices of single slices
    meetings: set[Origins]  # axes that meet


def stacked_axes(
    program: core.ClosedJaxpr, paths: Sequence[Path], shapes: Sequence[tuple[int, ...]]
) -> dict[int, int]:
    """The axis of the stack for every input of the program that is one."""
    flows = [
        _Flow(tuple(frozenset([(i, a)]) for a in range(len(shape))), True)
        for i, shape in enumerate(shapes)
    ]
    found = _Found(set(), {}, set())
    _follow(program.jaxpr, flows, found, in_loop=False, in_vmap=False)
    full = {
        (i, a) for (i, a), taken in found.taken.items() if len(taken) == shapes[i][a]
    }
    stacks = found.stacks | full
    while True:
        meeting = [origins for origins in found.meetings if origins & stacks]
        larger = stacks.union(*meeting)
        if larger == stacks:
            break
        stacks = larger
    axes = {i: axis for i, axis in sorted(stacks, reverse=True) if shapes[i][axis] > 1}
    for i, axis in list(axes.items()):
        for other in _subtree(i, axis, paths, shapes):
            axes.setdefault(other, axis)
    return axes


def _subtree(
    i: int, axis: int, paths: Sequence[Path], shapes: Sequence[tuple[int, ...]]
) -> list[int]:
    """The parameters of the largest subtree around one that share its stack."""
    size, own = shapes[i][axis], paths[i]
    members = [i]
    for length in range(len(own) - 1, 0, -1):  # not the whole tree
        inside = [j for j, path in enumerate(paths) if path[:length] == own[:length]]
        if not all(shapes[j][axis : axis + 1] == (size,) for j in inside):
            break
        members = inside
    return members


def _follow(
    jaxpr: core.Jaxpr,
    inputs: Sequence[_Flow | None],
    found: _Found,
    *,
    in_loop: bool,
    in_vmap: bool,
) -> list[_Flow | None]:
    """The flows of the outputs; it adds the evidence."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> _Flow | None:
        return None if isinstance(atom, core.Literal) else known.get(atom)

    for eqn in jaxpr.eqns:
        flows = [read(atom) for atom in eqn.invars]
        if any(flows):
            outputs = _follow_eqn(eqn, flows, found, in_loop, in_vmap)
            known |= dict(zip(eqn.outvars, outputs, strict=False))
    return [read(atom) for atom in jaxpr.outvars]


def _follow_eqn(
    eqn: core.JaxprEqn,
    flows: list[_Flow | None],
    found: _Found,
    in_loop: bool,
    in_vmap: bool,
) -> list[_Flow | None]:
    name = eqn.primitive.name
    # A name stack is shown without transformations before JAX 0.6: read its parts.
    parts = eqn.source_info.name_stack.stack
    in_vmap = in_vmap or any(part.name == "vmap" for part in parts)
    body = called(eqn)
    if body is not None:
        return _follow(body.jaxpr, flows, found, in_loop=in_loop, in_vmap=in_vmap)
    if name in IDENTITIES or name == "convert_element_type":
        return flows
    if name == "scan":
        num_consts = eqn.params["num_consts"]
        start = num_consts + eqn.params["num_carry"]
        scanned = [flow for flow in flows[start:] if flow and flow.is_parameter]
        found.stacks.update(*(flow.axes[0] for flow in scanned))
        own: list[_Flow | None] = [*flows[:num_consts]]
        own += [None] * (len(flows) - num_consts)
        inner = eqn.params["jaxpr"].jaxpr
        _follow(inner, own, found, in_loop=True, in_vmap=in_vmap)
        return []
    if name == "cond":
        for branch in closed_subjaxprs(eqn):
            _follow(branch.jaxpr, flows[1:], found, in_loop=in_loop, in_vmap=in_vmap)
        return []
    if name == "dot_general":
        return [_product(eqn, flows, found, in_vmap)]
    axes = _axes_of_output(eqn, flows, found, in_loop)
    is_parameter = name == "transpose" and bool(flows[0] and flows[0].is_parameter)
    return [_Flow(axes, is_parameter)] if any(axes) else []


def _product(
    eqn: core.JaxprEqn, flows: list[_Flow | None], found: _Found, in_vmap: bool
) -> _Flow:
    contracting, batch = eqn.params["dimension_numbers"]
    axes = [
        flow.axes if flow else (NOWHERE,) * len(shape_of(atom))
        for flow, atom in zip(flows, eqn.invars, strict=True)
    ]
    shared = [
        _meet([axes[0][a], axes[1][b]], found) for a, b in zip(*batch, strict=True)
    ]
    # A product with activations along an axis of its own, such as heads, is not one.
    if in_vmap and any(flow and flow.is_parameter for flow in flows):
        found.stacks.update(*shared)
    free = [
        axes[side][a]
        for side in (0, 1)
        for a in range(len(axes[side]))
        if a not in contracting[side] and a not in batch[side]
    ]
    return _Flow((*shared, *free), False)


def _meet(origins: Sequence[Origins], found: _Found) -> Origins:
    union = NOWHERE.union(*origins)
    if len(union) > 1:
        found.meetings.add(union)
    return union


def _axes_of_output(
    eqn: core.JaxprEqn, flows: list[_Flow | None], found: _Found, in_loop: bool
) -> tuple[Origins, ...]:
    """The axes of the first output of a primitive that moves or keeps axes."""
    name, params = eqn.primitive.name, eqn.params
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    first = flows[0].axes if flows[0] else (NOWHERE,) * len(before)
    if name in ELEMENTWISE:
        same = [f.axes for f in flows if f and len(f.axes) == len(after)]
        return tuple(_meet(origins, found) for origins in zip(*same, strict=True))
    if name == "transpose":
        return tuple(first[a] for a in params["permutation"])
    if name == "broadcast_in_dim":
        kept = dict(
            zip(params["broadcast_dimensions"], range(len(before)), strict=True)
        )
        return tuple(
            first[kept[a]] if a in kept and before[kept[a]] == size else NOWHERE
            for a, size in enumerate(after)
        )
    if name in ("squeeze", "reshape"):
        return tuple(_reshaped(first, before, after))
    if name.startswith(REDUCTIONS) and "axes" in params:
        return tuple(x for a, x in enumerate(first) if a not in params["axes"])
    if name in ("slice", "dynamic_slice"):
        is_parameter = flows[0] is not None and flows[0].is_parameter
        _note_slice(eqn, first, found, at_index=in_loop and is_parameter)
    if name == "split" and set(params["sizes"]) == {1} and len(before) > 1:
        found.stacks.update(first[params["axis"]])  # jnp.unstack, jnp.split
    if name in ("slice", "dynamic_slice", "split"):
        pairs = zip(before, after, first, strict=True)
        return tuple(x if a == b else NOWHERE for a, b, x in pairs)
    return ()


def _reshaped(
    axes: Sequence[Origins], before: Sequence[int], after: Sequence[int]
) -> Iterator[Origins]:
    """The axes behind a reshape that only adds or removes axes of size 1."""
    long = [(size, x) for size, x in zip(before, axes, strict=True) if size > 1]
    is_kept = [size for size, _ in long] == [size for size in after if size > 1]
    origins = iter(x for _, x in long)
    for size in after:
        yield next(origins) if is_kept and size > 1 else NOWHERE


def _note_slice(
    eqn: core.JaxprEqn, axes: Sequence[Origins], found: _Found, at_index: bool
) -> None:
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    cut = [a for a, size in enumerate(before) if after[a] != size]
    if len(cut) != 1 or after[cut[0]] != 1 or len(before) == 1:
        return
    if eqn.primitive.name == "slice":
        index = eqn.params["start_indices"][cut[0]]
        for origin in axes[cut[0]]:
            found.taken.setdefault(origin, set()).add(index)
    elif at_index:
        found.stacks.update(axes[cut[0]])
