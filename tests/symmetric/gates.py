"""Gates, mixtures of experts, and recurrent networks."""

import jax
import jax.numpy as jnp
from jax import lax

from symmetric.layers import rms_norm
from symmetric.model import data, draw, group, truth


GATED = dict(gate=(5, 9), up=(5, 9), down=(9, 4))
BIASES = dict(gb=(9,), ub=(9,), db=(4,))


def gated(p, x, activation):
    gate = activation(x @ p["gate"] + p.get("gb", 0.0))
    h = gate * (x @ p["up"] + p.get("ub", 0.0))
    return h @ p["down"] + p.get("db", 0.0)


@truth(groups=(group("up ub", "down"),))
def swiglu():
    """SiLU: gate = gb = 0. The other factor: ub = up = -down, db = 0."""
    x = data(8, 5)
    return lambda p: gated(p, x, jax.nn.silu), draw(91, **GATED, **BIASES)


@truth(groups=(group("up", "down"),))
def geglu_no_bias():
    """As SwiGLU."""
    x = data(8, 5)
    return lambda p: gated(p, x, jax.nn.gelu), draw(92, **GATED)


@truth(groups=(group("up ub", "down"),))
def sigmoid_glu():
    """As SwiGLU."""
    x = data(8, 5)
    return lambda p: gated(p, x, jax.nn.sigmoid), draw(93, **GATED, **BIASES)


@truth(groups=(group("gate", "down"), group("up", "down")))
def bilinear():
    """(x gate)(x up) down: gate + up + down = 0."""
    x = data(8, 5)
    return lambda p: gated(p, x, lambda h: h), draw(94, **GATED)


@truth(groups=(group("gate gb", "down"), group("up ub", "down")))
def reglu():
    """A ReLU gate has the degree gate = gb: ub = up, gate + up + down = 0 = db."""
    x = data(8, 5)
    return lambda p: gated(p, x, jax.nn.relu), draw(95, **GATED, **BIASES)


@truth(
    groups=(
        group("g", "router up[0] up[1] up[2] up[3]"),
        *(group(f"up[{e}]", f"down[{e}]") for e in range(4)),
    ),
    stacks=dict(up=0, down=0),
    optional="up down",
)
def mixture_of_experts():
    """Σ_e softmax(h router)_e relu(h up_e) down_e, with h = g RMS(x).

    router = -g, and g + up_e + down_e = 0 for each expert e.
    """
    x = data(12, 6)
    params = draw(96, g=(6,), router=(6, 4), up=(4, 6, 7), down=(4, 7, 5))

    def function(p):
        h = rms_norm(x, p["g"])
        weights = jax.nn.softmax(h @ p["router"])
        inner = jax.nn.relu(jnp.einsum("bd,edh->beh", h, p["up"]))
        return jnp.einsum("be,beh,eho->bo", weights, inner, p["down"])

    return function, params


def unrolled(cell, x, width):
    """The last state of the cell over a sequence (batch, time, features)."""
    state = jnp.zeros((x.shape[0], width), x.dtype)
    return lax.scan(cell, state, x.swapaxes(0, 1))[0]


@truth()
def lstm():
    """Sigmoid and tanh read all gates, and tanh reads the cell. The head is seen."""
    x = data(8, 5, 4)
    params = draw(97, w=(4, 24), u=(6, 24), b=(24,), head=(6, 3), hb=(3,))

    def function(p):
        def cell(state, x_t):
            c, h = state
            i, f, o, g = jnp.split(x_t @ p["w"] + h @ p["u"] + p["b"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (c, jax.nn.sigmoid(o) * jnp.tanh(c)), None

        start = (jnp.zeros((8, 6), p["w"].dtype), jnp.zeros((8, 6), p["w"].dtype))
        (_, h), _ = lax.scan(cell, start, x.swapaxes(0, 1))
        return h @ p["head"] + p["hb"]

    return function, params


@truth()
def gru():
    """As the LSTM: all seen."""
    x = data(8, 5, 4)
    shapes = {
        f"{k}{name}": s for name in "rzn" for k, s in (("w", (4, 6)), ("u", (6, 6)))
    }
    params = draw(98, **shapes, b=(6,), head=(6, 3))

    def function(p):
        def cell(h, x_t):
            r = jax.nn.sigmoid(x_t @ p["wr"] + h @ p["ur"])
            z = jax.nn.sigmoid(x_t @ p["wz"] + h @ p["uz"])
            new = jnp.tanh(x_t @ p["wn"] + r * (h @ p["un"] + p["b"]))
            return (1 - z) * new + z * h, None

        return unrolled(cell, x.astype(p["b"].dtype), 6) @ p["head"]

    return function, params


@truth(groups=(group("w b", "head"),))
def relu_rnn():
    """h = relu(x w + h u + b): u = 0, since h is on both sides; w = b = -head."""
    x = data(8, 5, 4)
    params = draw(99, w=(4, 6), u=(6, 6), b=(6,), head=(6, 3))

    def function(p):
        def cell(h, x_t):
            return jax.nn.relu(x_t @ p["w"] + h @ p["u"] + p["b"]), None

        return unrolled(cell, x.astype(p["b"].dtype), 6) @ p["head"]

    return function, params


@truth(groups=(group("b", "c"),))
def state_space():
    """h = σ(a) h + x b, y = h c + x d: b + c = 0 = d. The decay a is seen."""
    x = data(8, 5, 4)
    params = draw(100, a=(6,), b=(4, 6), c=(6, 3), d=(4, 3))

    def function(p):
        def cell(h, x_t):
            h = jax.nn.sigmoid(p["a"]) * h + x_t @ p["b"]
            return h, h @ p["c"] + x_t @ p["d"]

        start = jnp.zeros((8, 6), p["a"].dtype)
        return lax.scan(cell, start, x.astype(p["a"].dtype).swapaxes(0, 1))[1]

    return function, params


@truth(groups=(group("w_h", "head"),))
def min_gru():
    """h = (1 - z) h + z (x w_h), z = σ(x w_z): linear in w_h."""
    x = data(8, 5, 4)
    params = draw(101, w_z=(4, 6), w_h=(4, 6), head=(6, 3))

    def function(p):
        def cell(h, x_t):
            z = jax.nn.sigmoid(x_t @ p["w_z"])
            return (1 - z) * h + z * (x_t @ p["w_h"]), None

        return unrolled(cell, x.astype(p["head"].dtype), 6) @ p["head"]

    return function, params
