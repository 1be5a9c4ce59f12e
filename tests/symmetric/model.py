"""A model and its true scale symmetries, derived from its mathematics.

A scale symmetry is one exponent for each leaf: f(exp(t a) θ) = f(θ) for every t. The
symmetries form a vector space. It is the sum of

* the leaves that are invariant alone (one dimension each), and
* the joint part: `groups` is one basis of it, without invariant leaves. Any other basis
  modulo the invariant leaves is as good, so compare the spans (`joint_span`).

A dead leaf has no entry in a group. Each other leaf is seen. Epsilons count as zero.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


Exponents = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Model:
    """One row of the table.

    The paths of a stacked parameter have the index behind them: "w[2]", "w[:,1]".
    """

    name: str
    make: Callable[[], tuple[Any, ...]]  # (function, params); frameworks: see `modules`
    invariant: dict[str, tuple[int, ...]]  # path -> axes of the parameter
    dead: tuple[str, ...]
    groups: tuple[Exponents, ...]
    stacks: dict[str, int]  # parameter -> the axis of its slices
    optional: tuple[str, ...]  # stacks that may also be reported as one leaf
    near: tuple[Exponents, ...]  # these look like symmetries and are not
    framework: str = "jax"

    @property
    def dimension(self) -> int:
        return len(self.invariant) + len(self.groups)

    def kind(self, path: str) -> str:
        if path in self.invariant:
            return "invariant"
        if path in self.dead:
            return "dead"
        return "joint" if any(path in group for group in self.groups) else "seen"


ROWS: list[Model] = []


def truth(
    groups: tuple[Exponents, ...] = (),
    invariant: Mapping[str, tuple[int, ...]] | None = None,
    dead: str = "",
    stacks: Mapping[str, int] | None = None,
    optional: str = "",
    near: tuple[Exponents, ...] = (),
) -> Callable[[Callable[[], tuple[Any, ...]]], Callable[[], tuple[Any, ...]]]:
    """Add the model that the function makes to the table; the docstring says why."""

    def add(make):
        row = Model(
            name=make.__name__,
            make=make,
            invariant=dict(invariant or {}),
            dead=tuple(dead.split()),
            groups=groups,
            stacks=dict(stacks or {}),
            optional=tuple(optional.split()),
            near=near,
        )
        assert all(row.name != other.name for other in ROWS), row.name
        ROWS.append(row)
        return make

    return add


def group(positive: str, negative: str = "") -> Exponents:
    """``group("w1 b1", "w2*2")`` is {w1: 1, b1: 1, w2: -2}."""
    exponents = {}
    for names, sign in ((positive, 1.0), (negative, -1.0)):
        for name in names.split():
            path, _, factor = name.partition("*")
            assert path not in exponents, path
            exponents[path] = sign * float(factor or 1)
    return exponents


# Random parameters and data --------------------------------------------------------


def draw(seed: int, **shapes: Any) -> dict[str, Any]:
    """Float32 leaves for the shapes: g* and tau* in [0.5, 1.5), others normal."""
    generator = np.random.default_rng(seed)

    def leaf(name: str, shape: Any) -> Any:
        if isinstance(shape, dict):
            return {key: leaf(key, value) for key, value in shape.items()}
        if name.startswith(("g", "tau")):
            return jnp.asarray(generator.uniform(0.5, 1.5, shape), jnp.float32)
        fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 4.0
        values = generator.normal(size=shape) / np.sqrt(fan_in)
        return jnp.asarray(values, jnp.float32)

    return leaf("", shapes)


def data(*shape: int, seed: int = 99) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def tokens(batch: int, length: int, vocabulary: int) -> jax.Array:
    generator = np.random.default_rng(98)
    return jnp.asarray(generator.integers(0, vocabulary, (batch, length)), jnp.int32)


_EPSILON = {"factor": 1.0}


def epsilon(value: float) -> float:
    """The value; almost zero inside `without_epsilon`."""
    return value * _EPSILON["factor"]


@contextlib.contextmanager
def without_epsilon() -> Iterator[None]:
    _EPSILON["factor"] = 1e-30
    try:
        yield
    finally:
        _EPSILON["factor"] = 1.0
