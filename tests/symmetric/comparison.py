"""Compare what `dx.scale_symmetries` returns with the truth of a model."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from symmetric.algebra import equations, null_space
from symmetric.model import Exponents, Model


class Leaf(Protocol):
    """The fields of a LeafSymmetry that are compared."""

    @property
    def path(self) -> str: ...
    @property
    def parameter(self) -> str: ...
    @property
    def slice(self) -> tuple[int, int] | None: ...
    @property
    def kind(self) -> str: ...
    @property
    def axes(self) -> tuple[int, ...]: ...


def differences(
    model: Model, paths: list[str], leaves: Sequence[Leaf], groups: Sequence[Exponents]
) -> list[str]:
    """What is wrong in a result; empty if nothing is.

    `paths` are the leaves of the truth, as in `checking.Probe(...).paths`.
    """
    whole = {leaf.parameter for leaf in leaves if leaf.slice is None} & set(
        model.stacks
    )
    faults = [
        f"{name}: one leaf, expected slices along the axis {model.stacks[name]}"
        for name in sorted(whole)
        if name not in model.optional and not dead(model, paths, name)
    ]
    model = coarser(model, paths, whole)
    paths = [name for name in dict.fromkeys(renamed(p, whole) for p in paths)]
    if [leaf.path for leaf in leaves] != paths:
        return [*faults, f"leaves {[leaf.path for leaf in leaves]}, expected {paths}"]
    for leaf in leaves:
        kind, axes = model.kind(leaf.path), model.invariant.get(leaf.path, ())
        if leaf.kind != kind:
            faults.append(f"{leaf.path}: {leaf.kind}, expected {kind}")
        elif kind == "invariant" and tuple(leaf.axes) != tuple(axes):
            faults.append(f"{leaf.path}: axes {leaf.axes}, expected {axes}")
    if not same_span(model.groups, groups, paths):
        faults.append(f"groups {list(groups)}, expected {list(model.groups)}")
    return faults


def coarser(model: Model, paths: list[str], whole: Iterable[str]) -> Model:
    """The truth if the slices of each parameter of `whole` have equal exponents."""
    whole = set(whole)
    if not whole:
        return model
    fine = equations([*model.invariant, *model.dead], model.groups, paths)
    forms = []
    for form in fine:
        total = {}
        for path, factor in form.items():
            name = renamed(path, whole)
            total[name] = total.get(name, 0) + factor
        forms.append({name: factor for name, factor in total.items() if factor})
    names = list(dict.fromkeys(renamed(path, whole) for path in paths))
    alone, groups = null_space(forms, names)
    gone = [name for name in alone if name in model.dead or dead(model, paths, name)]
    invariant = {
        name: axes_of(model, paths, name) for name in alone if name not in gone
    }
    stacks = {name: axis for name, axis in model.stacks.items() if name not in whole}
    return Model(
        name=model.name,
        make=model.make,
        invariant=invariant,
        dead=tuple(gone),
        groups=tuple(groups),
        stacks=stacks,
        optional=model.optional,
        near=(),
        framework=model.framework,
    )


def axes_of(model: Model, paths: list[str], name: str) -> tuple[int, ...]:
    if name in model.invariant:
        return model.invariant[name]
    inner = [model.invariant.get(path) for path in paths if path.startswith(f"{name}[")]
    if None in inner:  # all slices together only
        return ()
    common = set.intersection(*(set(axes) for axes in inner if axes is not None))
    return tuple(sorted({*common, model.stacks[name]}))


def dead(model: Model, paths: list[str], name: str) -> bool:
    slices = [path for path in paths if path.startswith(f"{name}[")]
    return bool(slices) and set(slices) <= set(model.dead)


def renamed(path: str, whole: Iterable[str]) -> str:
    parameter = path.partition("[")[0]
    return parameter if parameter in whole else path


def same_span(
    one: Sequence[Exponents], other: Sequence[Exponents], paths: list[str]
) -> bool:
    """Both are bases of one space. A path that is not a leaf is not accepted."""
    if any(set(group) - set(paths) for group in (*one, *other)):
        return False

    def rank(groups: Sequence[Exponents]) -> int:
        rows = [[group.get(path, 0.0) for path in paths] for group in groups]
        return int(np.linalg.matrix_rank(np.array(rows), tol=1e-6)) if rows else 0

    return rank(one) == rank(other) == rank([*one, *other]) == len(one) == len(other)
