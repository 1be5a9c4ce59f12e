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
    is_matrix: bool  # has two or more axes in a layer
    is_norm: bool  # in a norm: if not a matrix, has one axis in a layer


def stacked_axes(members: Iterable[Member]) -> dict[Modules, tuple[int, ...]]:
    """For each module, the positions of the axes over which its layers are stacked.

    The innermost enclosing subtree with a norm decides. Without a norm: no axis.

    >>> norm = Member(("layer", "norm"), (6, 8), is_matrix=False, is_norm=True)
    >>> other = Member(("layer", "gate"), (6, 4), is_matrix=False, is_norm=False)
    >>> stacked_axes([norm, other])[("layer", "gate")]
    (0,)
    """
    subtrees: dict[Modules, list[Member]] = defaultdict(list)
    for member in members:
        for length in range(len(member.modules) + 1):
            subtrees[member.modules[:length]].append(member)
    found: dict[Modules, tuple[int, ...]] = {}
    for modules in sorted(subtrees, key=len):  # outer before inner
        if any(m.is_norm and not m.is_matrix for m in subtrees[modules]):
            found[modules] = _shared_axes(subtrees[modules])
        else:
            found[modules] = found[modules[:-1]] if modules else ()
    return found


def _shared_axes(members: list[Member]) -> tuple[int, ...]:
    """The axes that all shapes share, as long as each member keeps its own axes.

    >>> norm = Member((), (6, 8), is_matrix=False, is_norm=True)
    >>> kernel = Member((), (6, 8, 8), is_matrix=True, is_norm=False)
    >>> _shared_axes([norm, kernel]), _shared_axes([norm._replace(shape=(8,)), kernel])
    ((0,), ())
    """
    shapes = [member.shape for member in members]
    shared = [
        axis
        for axis in range(min(map(len, shapes)))
        if len({shape[axis] for shape in shapes}) == 1
    ]
    spare = len(shared)
    for member in members:
        own = 2 if member.is_matrix else int(member.is_norm)
        spare = min(spare, len(member.shape) - own)
    return tuple(shared[: max(spare, 0)])


def without_axes(shape: Shape, axes: tuple[int, ...]) -> Shape:
    """The shape of one layer.

    >>> without_axes((6, 8, 4), (0,))
    (8, 4)
    """
    return tuple(size for i, size in enumerate(shape) if i not in axes)
