"""Check the table by finite scaling, in float64, without any derivative.

* A listed symmetry changes nothing, for the factors e^0.7 and e^-1.3.
* A seen leaf alone changes the outputs; so does a joint leaf alone.
* Other values for a dead leaf change nothing.
* Slices along the listed axes of an invariant leaf are invariant; with any further axis
  they are not.
* The dimension: column l of a matrix is df(exp(t e_l) θ)/dt by central differences, at
  several random θ. Its null space is the space of all symmetries.
"""

import contextlib
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symmetric.model import Exponents, Model, without_epsilon


POWERS = (0.7, -1.3)
SAME, DIFFERENT = 1e-8, 1e-6  # relative changes: at most, at least
POINTS = 3
STEP = 1e-5


@contextlib.contextmanager
def precise():
    """Float64, almost no epsilon, no strict promotion."""
    enable = getattr(jax, "enable_x64", None)
    if enable is None:
        from jax.experimental import enable_x64 as enable
    with (
        enable(True),
        without_epsilon(),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def index_of(path: str) -> tuple[str, tuple[Any, ...]]:
    """ "w[:,1]" is the parameter "w" at the index (:, 1)."""
    parameter, _, inner = path.removesuffix("]").partition("[")
    parts = inner.split(",") if inner else []
    return parameter, tuple(slice(None) if p == ":" else int(p) for p in parts)


def slices(parameter: str, axis: int, size: int) -> list[str]:
    return [f"{parameter}[{':,' * axis}{i}]" for i in range(size)]


class Probe:
    """A model in float64: its leaves by path, and its outputs as one vector."""

    def __init__(self, model: Model, function: Any, params: Any):
        flat, treedef = jax.tree_util.tree_flatten_with_path(params)
        names = [path_of(path) for path, _ in flat]
        fixed = [leaf for _, leaf in flat]
        self.model = model
        self.values = {
            name: np.asarray(leaf, complex if np.iscomplexobj(leaf) else float)
            for name, leaf in zip(names, fixed, strict=True)
            if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)
        }
        assert len(set(names)) == len(names)

        def outputs(values):
            leaves = [values.get(n, x) for n, x in zip(names, fixed, strict=True)]
            out = function(jax.tree_util.tree_unflatten(treedef, leaves))
            return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(out)])

        self.outputs = jax.jit(outputs)
        self.paths = []
        for name, value in self.values.items():
            axis = model.stacks.get(name)
            one = [name] if axis is None else slices(name, axis, value.shape[axis])
            self.paths += one

    def at(self, values) -> np.ndarray:
        out = np.asarray(self.outputs(values))
        assert np.all(np.isfinite(out)), self.model.name
        return out

    def points(self, count):
        """Random parameters near the initial values, of other sizes."""
        generator = np.random.default_rng(3)
        for _ in range(count):
            yield {
                name: x
                + 0.2
                * max(0.5, float(np.sqrt(np.mean(np.abs(x) ** 2))))
                * generator.normal(size=x.shape)
                for name, x in self.values.items()
            }

    def change(self, values, exponents: Exponents, power: float) -> float:
        before, after = self.at(values), self.at(scaled(values, exponents, power))
        return float(np.max(np.abs(after - before)) / np.max(np.abs(before)))


def path_of(path) -> str:
    """The path without the `.value` of NNX variables."""
    if isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return "/".join(jax.tree_util.keystr((key,), simple=True) for key in path)


def scaled(values, exponents: Exponents, power: float):
    out = dict(values)
    for path, exponent in exponents.items():
        parameter, index = index_of(path)
        array = np.array(out[parameter])
        array[index] *= np.exp(power * exponent)
        out[parameter] = array
    return out


def faults_of(model: Model) -> list[str]:
    """What is wrong with the row; empty if nothing is."""
    with precise():
        if model.framework == "jax":
            function, params = model.make()
        else:
            from symmetric.modules import function_of  # it needs Flax and Equinox

            function, params = function_of(model)
        return check(model, Probe(model, function, params))


def check(model: Model, probe: Probe) -> list[str]:
    known = set(probe.paths)
    unknown = {p for g in (*model.groups, *model.near) for p in g} | set(
        model.invariant
    )
    unknown |= set(model.dead)
    if unknown - known:
        return [f"no such leaf: {sorted(unknown - known)}; leaves: {sorted(known)}"]
    points = list(probe.points(POINTS))
    with np.errstate(all="raise"):
        faults = _symmetries(model, probe, points) + _not_symmetries(probe, points)
        faults += _dead(model, probe, points) + _axes(model, probe, points)
        return faults + _dimension(model, probe)


def _symmetries(model, probe, points):
    alone = [{path: 1.0} for path in model.invariant]
    return [
        f"{exponents} changes the outputs by {worst:.1e}"
        for exponents in (*alone, *model.groups)
        if (worst := max(_changes(probe, points, exponents))) > SAME
    ]


def _not_symmetries(probe, points):
    model = probe.model
    free = {*model.invariant, *model.dead}
    alone = [{path: 1.0} for path in probe.paths if path not in free]
    return [
        f"{exponents} changes the outputs by {least:.1e} only"
        for exponents in (*alone, *model.near)
        if (least := min(_changes(probe, points, exponents))) < DIFFERENT
    ]


def _changes(probe, points, exponents):
    cases = itertools.product(points, POWERS)
    return [probe.change(values, exponents, power) for values, power in cases]


def _dead(model, probe, points):
    faults = []
    for path in model.dead:
        parameter, index = index_of(path)
        for values in points:
            other = dict(values)
            other[parameter] = np.array(values[parameter])
            shape = other[parameter][index].shape
            other[parameter][index] = np.random.default_rng(7).normal(size=shape)
            before, after = probe.at(values), probe.at(other)
            worst = np.max(np.abs(after - before)) / np.max(np.abs(before))
            if worst > SAME:
                faults.append(f"{path} is not dead: {worst:.1e}")
    return faults


def _axes(model, probe, points):
    faults = []
    for path, axes in model.invariant.items():
        parameter, index = index_of(path)
        shape = probe.values[parameter].shape
        fixed = {axis: i for axis, i in enumerate(index) if i != slice(None)}
        worst = _worst_slice(probe, points, parameter, fixed, axes)
        if worst > SAME:
            faults.append(f"{path}: not invariant along {axes}: {worst:.1e}")
        for axis in range(len(shape)):
            if axis in axes or axis in fixed or shape[axis] == 1:
                continue
            more = (*axes, axis)
            worst = _worst_slice(probe, points, parameter, fixed, more)
            if worst < DIFFERENT:
                faults.append(f"{path}: also invariant along {axis}: {worst:.1e}")
    return faults


def _worst_slice(probe, points, parameter, fixed, axes):
    """The largest change by one slice. At most 40 of them, spread over the array."""
    shape = probe.values[parameter].shape
    ranges = [
        [fixed[axis]]
        if axis in fixed
        else range(shape[axis])
        if axis in axes
        else [slice(None)]
        for axis in range(len(shape))
    ]
    picks = list(itertools.product(*ranges))
    picks = picks[:: -(-len(picks) // 40)]
    worst = 0.0
    for pick, power, values in zip(
        picks, itertools.cycle(POWERS), itertools.cycle(points), strict=False
    ):
        other = dict(values) | {parameter: np.array(values[parameter])}
        other[parameter][pick] *= np.exp(power)
        before, after = probe.at(values), probe.at(other)
        change = np.max(np.abs(after - before)) / np.max(np.abs(before))
        worst = max(worst, float(change))
    return worst


def _dimension(model, probe):
    blocks = []
    scalar = probe.at(probe.values).size == 1
    for values in probe.points(3 * len(probe.paths) if scalar else POINTS):
        here = probe.at(values)
        columns, smooth = [], np.ones(here.shape, bool)
        for path in probe.paths:
            ahead, back = (
                probe.at(scaled(values, {path: 1.0}, t)) for t in (STEP, -STEP)
            )
            columns.append((ahead - back) / (2 * STEP))
            # A ReLU that changes its side gives a kink: leave this output out.
            kink = np.abs(ahead - 2 * here + back) / STEP
            smooth &= kink < 3e-4 * np.max(np.abs(here))
        blocks.append(np.stack(columns, 1)[smooth] / np.max(np.abs(here)))
    matrix = np.concatenate(blocks)
    matrix = np.concatenate([matrix.real, matrix.imag])
    norms = np.linalg.norm(matrix, axis=0)
    matrix = matrix / np.where(norms > 1e-6 * norms.max(), norms, 1.0)
    singular = np.linalg.svd(matrix, compute_uv=False)
    found = int(np.sum(singular < 1e-5)) - len(model.dead)
    if found == model.dimension and not np.any((singular > 1e-6) & (singular < 1e-4)):
        return []
    tail = [f"{x:.0e}" for x in singular[-(found + len(model.dead) + 3) :]]
    return [f"dimension {found}, listed {model.dimension}; singular values {tail}"]
