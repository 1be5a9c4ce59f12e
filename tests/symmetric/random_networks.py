"""Random networks whose symmetries follow from the algebra of degrees.

Each tensor has a degree, a linear form in the exponents of the leaves:

    linear   degree + kernel; a bias must have this degree
    gain     degree + gain
    ReLU, leaky ReLU: the same degree
    norm     0
    smooth   0, and its input must have degree 0
    sum      both inputs must have the same degree

The outputs must have degree 0. The equations are solved with fractions. They are also
necessary, because a linear layer is between the two tensors of each sum: x + RMS(x)
would be an exception, as it is a multiple of x.
"""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from symmetric.algebra import combine, Form, null_space
from symmetric.layers import layer_norm, rms_norm
from symmetric.model import data, draw, Model


Step = tuple[str, int, str | int]  # operation, input, a leaf or a second input

ELEMENTWISE = {
    "relu": jax.nn.relu,
    "leaky": jax.nn.leaky_relu,
    "gelu": jax.nn.gelu,
    "tanh": jnp.tanh,
    "rms": rms_norm,
    "layer_norm": layer_norm,
}
SMOOTH, NORMS = ("gelu", "tanh"), ("rms", "layer_norm")


def random_network(seed: int) -> Model:
    """A network of 3 to 6 pieces: plain layers or residual branches."""
    steps, shapes = random_steps(np.random.default_rng(seed))
    invariant, groups = null_space(equations(steps), list(shapes))
    x = data(9, 5)

    def make():
        return (lambda p: run(steps, p, x)), draw(seed, **shapes)

    return Model(
        name=f"random_{seed}",
        make=make,
        invariant=dict.fromkeys(invariant, ()),
        dead=(),
        groups=tuple(groups),
        stacks={},
        optional=(),
        near=(),
    )


def random_steps(random) -> tuple[list[Step], dict[str, tuple[int, ...]]]:
    steps: list[Step] = []
    shapes: dict[str, tuple[int, ...]] = {}
    widths = [5]  # of tensor 0, the data; step i makes tensor i + 1

    def add(operation: str, second: str | int = "", width: int = 0) -> None:
        steps.append((operation, len(steps), second))
        widths.append(width or widths[-1])

    def leaf(kind: str, *shape: int) -> str:
        name = f"{kind}{len(shapes)}"
        shapes[name] = shape
        return name

    def linear(width: int) -> None:
        add("linear", leaf("w", widths[-1], width), width)
        if random.random() < 0.5:
            add("bias", leaf("b", width))

    def activation() -> None:
        add(str(random.choice(("relu", "relu", "leaky", "leaky", "leaky", *SMOOTH))))

    def norm(chance: float) -> None:
        if random.random() < chance:
            add(str(random.choice(NORMS)))
            if random.random() < 0.6:
                add("gain", leaf("g", widths[-1]))

    def branch() -> None:
        start = len(steps)
        norm(0.5)
        linear(int(random.integers(12, 17)))
        activation()
        linear(widths[start])
        norm(0.3)
        if random.random() < 0.3:
            add("gain", leaf("g", widths[-1]))
        add("sum", start)

    for _ in range(random.integers(3, 7)):
        if random.random() < 0.5:
            linear(int(random.integers(12, 17)))
            norm(0.4)
            activation()
        else:
            branch()
    norm(0.4)
    if random.random() < 0.8:
        linear(4)
    return steps, shapes


def run(steps: list[Step], params, x):
    tensors = [x]
    for operation, source, second in steps:
        h = tensors[source]
        if operation == "linear":
            h = h @ params[second]
        elif operation == "bias":
            h = h + params[second]
        elif operation == "gain":
            h = h * params[second]
        elif operation == "sum":
            h = h + tensors[second]
        else:
            h = ELEMENTWISE[operation](h)
        tensors.append(h)
    return tensors[-1]


def equations(steps: list[Step]) -> list[Form]:
    """The forms that must be zero."""
    degrees: list[Form] = [{}]
    zero: list[Form] = []
    for operation, source, second in steps:
        degree = degrees[source]
        if operation in ("linear", "gain"):
            degree = combine(degree, {str(second): Fraction(1)}, 1)
        elif operation == "bias":
            zero.append(combine(degree, {str(second): Fraction(1)}, -1))
        elif operation == "sum":
            zero.append(combine(degree, degrees[int(second)], -1))
        elif operation in SMOOTH:
            zero.append(degree)
            degree = {}
        elif operation in NORMS:
            degree = {}
        degrees.append(degree)
    return [*zero, degrees[-1]]
