"""How many axes of a parameter come from stacked layers.

``nn.scan`` and ``nnx.vmap`` give each parameter of a layer another axis, and a scale
looks like a matrix then. The norms of the layer show it: a norm has one axis, so more
axes come from the stack if all parameters of the subtree share them.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple


Shape = tuple[int, ...]
Modules = tuple[str, ...]


class Member(NamedTuple):
    """A leaf of a subtree."""

    modules: Modules
    shape: Shape
    own_axes: int  # at least so many in one layer
    is_norm: bool  # a vector in a norm, which has one axis in one layer


def stacked_axes(members: Iterable[Member]) -> dict[Modules, tuple[int, ...]]:
    """For each module, the positions of the axes over which its layers are stacked.

    The innermost enclosing subtree with a norm decides. Without a norm: no axis.

    >>> norm = Member(("layer", "norm"), (6, 8), own_axes=1, is_norm=True)
    >>> other = Member(("layer", "gate"), (6, 4), own_axes=0, is_norm=False)
    >>> stacked_axes([norm, other])[("layer", "gate")]
    (0,)
    """
    subtrees: dict[Modules, list[Member]] = defaultdict(list)
    for member in members:
        for length in range(len(member.modules) + 1):
            subtrees[member.modules[:length]].append(member)
    found: dict[Modules, tuple[int, ...]] = {}
    holds_stack = set()  # subtrees with an inner stack over the first axes
    outer_first = sorted(subtrees, key=len)
    for modules in reversed(outer_first):
        inside = subtrees[modules]
        if any(member.is_norm for member in inside):
            axes = _shared_axes(inside, may_be_last=modules not in holds_stack)
            # Layers (6, 8, 8) next to a matrix (16, 8) are not stacked over the 8.
            # Norms alone cannot show which of their axes is the stack.
            is_shown = not all(member.is_norm for member in inside)
            if is_shown and axes and axes[0] >= 0:
                holds_stack |= {modules[:length] for length in range(len(modules))}
            found[modules] = axes
    for modules in outer_first:
        if modules not in found:
            found[modules] = found[modules[:-1]] if modules else ()
    return found


def _shared_axes(members: list[Member], may_be_last: bool = True) -> tuple[int, ...]:
    """The axes that all shapes share, as long as each member keeps its own axes.

    >>> norm = Member((), (6, 8), own_axes=1, is_norm=True)
    >>> kernel = Member((), (6, 8, 8), own_axes=2, is_norm=False)
    >>> _shared_axes([norm, kernel]), _shared_axes([norm._replace(shape=(8,)), kernel])
    ((0,), ())

    The stack may be the last axis, as in ``nn.scan(variable_axes={"params": -1})``.

    >>> gate, slope = (Member((), shape, 0, False) for shape in [(4, 6), (6,)])
    >>> _shared_axes([norm._replace(shape=(8, 6)), gate, slope])
    (-1,)
    """
    shapes = [member.shape for member in members]
    common = min(map(len, shapes))
    spare = min(len(member.shape) - member.own_axes for member in members)

    def shared(axes: range) -> tuple[int, ...]:
        same = [a for a in axes if len({shape[a] for shape in shapes}) == 1]
        return tuple(same[: max(spare, 0)])

    first, last = shared(range(common)), shared(range(-1, -common - 1, -1))
    # The features of a norm are its last axis if all others are 1, as in (1, 1, 64).
    scales = [without_axes(m.shape, last) for m in members if m.is_norm]
    has_features = all(max(shape, default=1) > 1 for shape in scales)
    is_last = may_be_last and has_features and len(last) > len(first)
    return last if is_last else first


def without_axes(shape: Shape, axes: tuple[int, ...]) -> Shape:
    """The shape of one layer.

    >>> without_axes((6, 8, 4), (0,)), without_axes((6, 8, 4), (-1,))
    ((8, 4), (6, 8))
    """
    dropped = {axis % len(shape) for axis in axes}
    return tuple(size for i, size in enumerate(shape) if i not in dropped)
