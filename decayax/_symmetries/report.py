"""The result of `scale_symmetries`: plain data and a table."""

from __future__ import annotations

import dataclasses
import html
import math

import numpy as np
import optax

from decayax._core.paths import path_str, summarize_paths
from decayax._core.symmetry import INVARIANT, match
from decayax._core.table import aligned, html_table
from decayax._symmetries.units import parameter_leaves


ROUNDING = 1e-10  # a relative change of the outputs in float64; less is 0


@dataclasses.dataclass(frozen=True)
class LeafSymmetry:
    """What the function sees of the scale of one parameter, or of one of its slices.

    Attributes:
        path: the path of the parameter, such as "dense/kernel". A slice of a stack of
            layers has its index behind the path: "layers/kernel[2]".
        kind: "invariant" if the function does not see the scale of this leaf, "joint"
            if it only does not see a common scale of several leaves, "dead" if the
            function does not depend on the leaf, and "seen" otherwise.
        axes: of an invariant leaf: the axes along which every slice is invariant on its
            own: (3,) for the filters of a convolution before BatchNorm. They count the
            axes of the whole parameter. Empty if only the whole leaf is invariant.
        parameter: the path of the parameter, without an index.
        slice: the axis and the index of the slice in its parameter, or None.
        shape: the shape of the leaf.
        sensitivity: the change of the outputs with the logarithm of the leaf's size,
            relative to a random change of the leaf of the same length. It is a rounding
            error if the leaf is invariant.
        deviation: the largest relative change of the outputs if the leaf, or its group,
            is multiplied by exp(0.7), with the ε that the function has. NaN if seen.
        confirmed: how the answer was found: "probes" at random parameters, "program" by
            the degrees of homogeneity of its operations, or both.
        cause: the operation behind which the scale is gone, if it is known.
    """

    path: str
    kind: str
    axes: tuple[int, ...] = ()
    parameter: str = ""
    slice: tuple[int, int] | None = None
    shape: tuple[int, ...] = ()
    sensitivity: float = math.nan
    deviation: float = math.nan
    confirmed: str = ""
    cause: str = ""


@dataclasses.dataclass(frozen=True, repr=False)
class ScaleSymmetries:
    """The scale symmetries of a function: the result of ``scale_symmetries``.

    ``print`` it for a table with the groups; notebooks show it as HTML.

    Attributes:
        leaves: every parameter, or every slice of a stacked parameter, in the order of
            the params.
        groups: the joint symmetries: path -> exponent a. The function does not change
            if every leaf of the group is multiplied by exp(t a). They are a basis, so
            sums of groups are symmetries, too.
        notes: how it was found, and what could not be decided.
    """

    leaves: tuple[LeafSymmetry, ...]
    groups: tuple[dict[str, float], ...]
    notes: tuple[str, ...] = ()

    @property
    def dimension(self) -> int:
        """The number of independent symmetries, without those of dead leaves."""
        return len(self.groups) + sum(leaf.kind == INVARIANT for leaf in self.leaves)

    def carry_over(self, params: optax.Params) -> ScaleSymmetries:
        """The same answer for a larger configuration of the same model.

        Args:
            params: the parameters of the large model, or their shapes. Only widths may
                differ: the paths, the number of axes and the number of stacked layers
                must be the same.

        Example:
            >>> import decayax as dx, jax, jax.numpy as jnp
            >>> small = {"v": jnp.ones((2, 3))}
            >>> found = dx.scale_symmetries(
            ...     lambda p: p["v"] / jnp.linalg.norm(p["v"]), small
            ... )
            >>> found.carry_over({"v": jnp.ones((512, 64))}).leaves[0].shape
            (512, 64)
        """
        leaves = parameter_leaves(params)
        match("carry_over", self, leaves)
        shapes = {path_str(path): np.shape(x) for path, x in leaves}
        missing = [x.path for x in self.leaves if x.parameter not in shapes]
        if missing:
            raise ValueError(
                f"carry_over: the parameters lack {summarize_paths(missing)} of the "
                "symmetries. Use the same number of layers in both."
            )

        def replaced(leaf: LeafSymmetry) -> LeafSymmetry:
            shape = shapes[leaf.parameter]
            if leaf.slice:
                shape = shape[: leaf.slice[0]] + shape[leaf.slice[0] + 1 :]
            return dataclasses.replace(leaf, shape=shape)

        return dataclasses.replace(self, leaves=tuple(map(replaced, self.leaves)))

    def __str__(self) -> str:
        return "\n".join([*aligned(self._table()), *self._lines()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self._lines())
        return f"{html_table(self._table())}<ul>{lines}</ul>"

    def _table(self) -> list[tuple[str, ...]]:
        rows = [_row(leaf, self.groups) for leaf in self.leaves]
        header = ("parameter", "shape", "kind", "axes", "groups", "deviation", "cause")
        columns = list(zip(header, *rows, strict=True))
        # A column without entries is left out.
        shown = [column for column in columns if any(column[1:])]
        return list(zip(*shown, strict=True))

    def _lines(self) -> list[str]:
        groups = [
            f"group {i}: " + ", ".join(f"{path} {a:+g}" for path, a in group.items())
            for i, group in enumerate(self.groups, start=1)
        ]
        return [*groups, *self.notes]


def _deviation(change: float) -> str:
    if math.isnan(change):
        return ""
    return f"{change:.0e}" if change > ROUNDING else "0"


def _row(leaf: LeafSymmetry, groups: tuple[dict[str, float], ...]) -> tuple[str, ...]:
    of_leaf = [str(i) for i, group in enumerate(groups, 1) if leaf.path in group]
    return (
        leaf.path,
        "×".join(map(str, leaf.shape)),
        leaf.kind,
        ", ".join(map(str, leaf.axes)) or ("whole" if leaf.kind == INVARIANT else ""),
        ", ".join(of_leaf),
        _deviation(leaf.deviation),
        leaf.cause,
    )
