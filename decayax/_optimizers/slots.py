"""The arrays of an optimizer's state as a flat list: which stage holds which array.

Optax's states name their fields: ``mu``, ``nu``, ``trace``, ``count``. A field holds a
tree like the parameters, which gives one slot per parameter, or a single array. The
wrappers around a stage do not change its slots, so two states are comparable slot by
slot. A checkpoint may be restored as plain dicts and lists; then the fields have their
names, but the classes are unknown.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from decayax._core.paths import is_masked_leaf, leaves_with_path, Path


class Owner(NamedTuple):
    """The node of a state that has the field."""

    name: str  # its class; "" for a plain container
    fields: frozenset[str]


class Context(NamedTuple):
    """What the nodes above say about a node."""

    owner: Owner
    place: Path  # in the whole state
    scope: tuple[str, ...]  # the wrappers above whose optimizer takes fewer steps
    is_last: bool  # whether it belongs to the last stage of a chain


class Slot(NamedTuple):
    """One array of a state."""

    owner: Owner
    field: str  # such as "mu"
    path: Path  # of the parameter; () for a single array
    place: Path  # in the whole state
    scope: tuple[str, ...]
    is_last: bool
    value: Any


def slots_of(state: Any, params: Any) -> list[Slot]:
    """The slots of a state, in the order of its leaves."""
    paths = {path for path, _ in _arrays(params)}

    def walk(node: Any, context: Context) -> Iterator[Slot]:
        flat = _arrays(node)
        found = {path for path, _ in flat}
        # The state `LearningRateState(step)` is not a tree like {"step": parameter}.
        is_state = _is_namedtuple(node) and type(node) is not type(params)
        if found == {()} or (found <= paths and not is_state):
            owner, place, scope, is_last = context
            field = place[-1] if place else ""
            for path, value in flat:
                where = (*place, *path)
                yield Slot(owner, field, path, where, scope, is_last, value)
        else:
            for child, child_context in _children(node, context):
                yield from walk(child, child_context)

    start = Context(Owner("", frozenset()), (), (), is_last=True)
    return list(walk(state, start))


def _arrays(tree: Any) -> list[tuple[Path, Any]]:
    """The leaves without None and MaskedNode."""
    return [(path, x) for path, x in leaves_with_path(tree) if not is_masked_leaf(x)]


def _children(node: Any, context: Context) -> Iterator[tuple[Any, Context]]:
    """The children of a node, one level down."""
    flat, _ = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda x: x is not node
    )
    children = {jax.tree_util.keystr(key, simple=True): child for key, child in flat}
    is_plain = isinstance(node, list | tuple | Mapping) and not _is_namedtuple(node)
    owner = Owner("" if is_plain else type(node).__name__, frozenset(children))
    numbers = [str(n) for n in range(len(children))]
    is_chain = is_plain and set(children) == set(numbers)
    slower = _slower_wrapper(owner.fields)
    for field, child in children.items():
        # A wrapper counts its own steps, but MultiSteps counts those inside too.
        is_inside = field == "gradient_step" or {p for p, _ in _arrays(child)} != {()}
        yield (
            child,
            Context(
                owner=owner,
                place=(*context.place, field),
                scope=context.scope + (slower if is_inside else ()),
                is_last=field == numbers[-1] if is_chain else context.is_last,
            ),
        )


def _slower_wrapper(fields: frozenset[str]) -> tuple[str, ...]:
    """The wrapper with these fields, if the optimizer inside takes fewer steps."""
    if "mini_step" in fields:
        return ("MultiSteps",)
    if "notfinite_count" in fields:
        return ("apply_if_finite",)
    return ("conditional",) if fields == {"inner_state", "step"} else ()


def _is_namedtuple(node: Any) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields")
