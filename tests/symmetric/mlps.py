"""Multi-layer perceptrons.

The docstring of a row derives its groups by degrees: a tensor of degree d is multiplied
by exp(t d). A sum needs equal degrees, and data and outputs have degree 0.
"""

import jax
import jax.numpy as jnp
from jax import lax

from symmetric.layers import layer_norm, rms_norm
from symmetric.model import data, draw, group, truth


THREE = dict(w1=(5, 7), b1=(7,), w2=(7, 9), b2=(9,), w3=(9, 4), b3=(4,))
KERNELS = {name: shape for name, shape in THREE.items() if name.startswith("w")}


def three_layers(p, x, activation, norm=lambda h, i: h):
    h = activation(norm(x @ p["w1"] + p.get("b1", 0.0), 1))
    h = activation(norm(h @ p["w2"] + p.get("b2", 0.0), 2))
    return h @ p["w3"] + p.get("b3", 0.0)


@truth(groups=(group("w1 b1 b2", "w3"), group("w2 b2", "w3")))
def mlp_relu():
    """b1 = w1, b2 = w1 + w2, w1 + w2 + w3 = 0 = b3: w1 and w2 are free."""
    x = data(8, 5)
    return lambda p: three_layers(p, x, jax.nn.relu), draw(1, **THREE)


@truth(groups=(group("w1", "w3"), group("w2", "w3")))
def mlp_relu_no_bias():
    """One equation: w1 + w2 + w3 = 0."""
    x = data(9, 5)
    return lambda p: three_layers(p, x, jax.nn.relu), draw(2, **KERNELS)


@truth()
def mlp_gelu():
    """GELU needs inputs of degree 0: w1 = b1 = 0, w2 = b2 = 0, w3 = 0."""
    x = data(8, 5)
    return lambda p: three_layers(p, x, jax.nn.gelu), draw(3, **THREE)


@truth(groups=(group("w1 b1 b2", "w3"), group("w2 b2", "w3")))
def mlp_leaky_relu():
    """Leaky ReLU is positively homogeneous: the equations of `mlp_relu`."""
    x = data(8, 5)
    return lambda p: three_layers(p, x, jax.nn.leaky_relu), draw(4, **THREE)


@truth(near=(group("w1 b1", "w2"), group("w1 b1 b2", "w3")))
def mlp_tanh():
    """Tanh needs inputs of degree 0."""
    x = data(8, 5)
    return lambda p: three_layers(p, x, jnp.tanh), draw(5, **THREE)


@truth(near=(group("w1 b1 b2", "w3"), group("w2 b2", "w3")))
def mlp_softcap():
    """50 tanh(h/50) is close to h, but it is not homogeneous: all seen."""
    x = data(8, 5)

    def activation(h):
        return jax.nn.relu(50.0 * jnp.tanh(h / 50.0))

    return lambda p: three_layers(p, x, activation), draw(6, **THREE)


@truth(near=(group("w1", "w2"),))
def mlp_silu_no_bias():
    """SiLU is not homogeneous. The outputs are linear in w3, so w3 is seen."""
    x = data(8, 5)
    return lambda p: three_layers(p, x, jax.nn.silu), draw(7, **KERNELS)


@truth(groups=(group("w1 b1", "w2*2"),))
def mlp_squared_relu():
    """relu(h)^2 has twice the degree of h: 2 w1 + w2 = 0, b1 = w1, b2 = 0."""
    x = data(8, 5)
    params = draw(8, w1=(5, 7), b1=(7,), w2=(7, 4), b2=(4,))

    def function(p):
        h = jnp.square(jax.nn.relu(x @ p["w1"] + p["b1"]))
        return h @ p["w2"] + p["b2"]

    return function, params


@truth(groups=(group("w1", "w4"), group("w2", "w4"), group("w3", "w4")))
def deep_linear():
    """The product of four matrices: w1 + w2 + w3 + w4 = 0."""
    x = data(8, 6)
    params = draw(9, w1=(6, 5), w2=(5, 7), w3=(7, 8), w4=(8, 4))
    return lambda p: x @ p["w1"] @ p["w2"] @ p["w3"] @ p["w4"], params


@truth(groups=(group("w1 b1 a2 b2", "v"),))
def concatenation():
    """b1 = w1 and b2 = a2; v reads both towers together: w1 = a2 = -v."""
    x = data(8, 5)
    params = draw(10, w1=(5, 6), b1=(6,), a2=(5, 7), b2=(7,), v=(13, 4), c=(4,))

    def function(p):
        towers = (x @ p["w1"] + p["b1"], jax.nn.relu(x @ p["a2"] + p["b2"]))
        return jax.nn.relu(jnp.concatenate(towers, -1)) @ p["v"] + p["c"]

    return function, params


@truth(groups=(group("w1 b1 b2", "head_a head_b"), group("w2 b2", "head_a head_b")))
def two_heads():
    """Both heads read w1 + w2 and have outputs of degree 0; a dict of outputs."""
    x = data(8, 5)
    shapes = dict(w1=(5, 7), b1=(7,), w2=(7, 6), b2=(6,), head_a=(6, 4), head_b=(6, 3))

    def function(p):
        h = jax.nn.relu(jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])
        return {"a": h @ p["head_a"], "b": h @ p["head_b"]}

    return function, draw(11, **shapes)


@truth(groups=(group("w1 b1", "w2"),))
def prelu():
    """PReLU is homogeneous for a fixed slope. The slope has degree 0: seen."""
    x = data(8, 5)
    params = draw(12, w1=(5, 7), b1=(7,), g_slope=(7,), w2=(7, 4), b2=(4,))

    def function(p):
        h = x @ p["w1"] + p["b1"]
        return jnp.where(h > 0, h, p["g_slope"] * h) @ p["w2"] + p["b2"]

    return function, params


@truth(
    groups=(
        group("w1 b1 b2", "g_alpha1 g_alpha2 w3"),
        group("w2 b2", "g_alpha2 w3"),
    )
)
def snake():
    """s(h; α) = h + sin²(αh)/α has s(ch; α/c) = c s(h; α): α1 = -w1, α2 = -(w1 + w2).

    With w1 = 1, w2 = 0: b1 = b2 = 1, α1 = α2 = -1, w3 = -1.
    """
    x = data(8, 5)

    def function(p):
        h = x @ p["w1"] + p["b1"]
        h = h + jnp.sin(p["g_alpha1"] * h) ** 2 / p["g_alpha1"]
        h = h @ p["w2"] + p["b2"]
        h = h + jnp.sin(p["g_alpha2"] * h) ** 2 / p["g_alpha2"]
        return h @ p["w3"] + p["b3"]

    return function, draw(13, g_alpha1=(7,), g_alpha2=(9,), **THREE)


@truth(groups=(group("w1 b1", "g_beta w2"),))
def swish_beta():
    """h sigmoid(βh): β = -w1, and the output has the degree of h."""
    x = data(8, 5)
    params = draw(14, w1=(5, 7), b1=(7,), g_beta=(), w2=(7, 4), b2=(4,))

    def function(p):
        h = x @ p["w1"] + p["b1"]
        return h * jax.nn.sigmoid(p["g_beta"] * h) @ p["w2"] + p["b2"]

    return function, params


@truth(groups=(group("w1 b1", "g_alpha"), group("g_gamma beta", "w2")))
def dynamic_tanh():
    """γ tanh(αh) + β: αh has degree 0, so α = -w1 = -b1; β = γ = -w2."""
    x = data(8, 5)
    shapes = dict(w1=(5, 7), b1=(7,), g_alpha=(), g_gamma=(7,), beta=(7,), w2=(7, 4))

    def function(p):
        h = jnp.tanh(p["g_alpha"] * (x @ p["w1"] + p["b1"]))
        return (h * p["g_gamma"] + p["beta"]) @ p["w2"]

    return function, draw(15, **shapes)


@truth(
    groups=(
        group("w1 b1"),
        group("g1 s1 b2"),
        group("w2 b2"),
        group("g2 s2", "w3"),
    )
)
def mlp_layer_norm():
    """b1 = w1 (the norm follows); s1 = g1, b2 = g1 + w2 (norm); s2 = g2 = -w3, b3 = 0.

    10 unknowns, 6 equations.
    """
    x = data(8, 5)
    params = draw(16, g1=(7,), s1=(7,), g2=(9,), s2=(9,), **THREE)

    def function(p):
        def norm(h, i):
            return layer_norm(h, p[f"g{i}"], p[f"s{i}"])

        return three_layers(p, x, jax.nn.relu, norm)

    return function, params


@truth(
    groups=(group("g2", "w3"),),
    invariant={"w1": (), "w2": (), "g1": ()},
)
def mlp_rms_norm_no_bias():
    """A norm follows w1, w2, and (through ReLU and w2) g1. It mixes all features."""
    x = data(8, 5)
    params = draw(17, g1=(7,), g2=(9,), **KERNELS)

    def function(p):
        return three_layers(
            p, x, jax.nn.relu, lambda h, i: rms_norm(h, p[f"g{i}"], 1e-5)
        )

    return function, params


@truth(groups=(group("w1 b1"), group("w2 b2")), near=(group("g2", "w3"),))
def mlp_rms_norm_gelu():
    """b1 = w1, then a norm; GELU: g1 = 0. b2 = w2, then a norm; GELU: g2 = w3 = 0."""
    x = data(8, 5)
    params = draw(18, g1=(7,), g2=(9,), **THREE)

    def function(p):
        return three_layers(p, x, jax.nn.gelu, lambda h, i: rms_norm(h, p[f"g{i}"]))

    return function, params


@truth(
    groups=(
        group("w0 b0 c1 e1 c2 e2", "head"),
        group("u1 c1", "d1"),
        group("u2 c2", "d2"),
    )
)
def residual_relu():
    """One degree s of the residual stream: w0 = b0 = e = s, c = s + u, d = -u."""
    x = data(8, 5)
    block = dict(u=(6, 9), c=(9,), d=(9, 6), e=(6,))
    shapes = {f"{name}{i}": shape for i in (1, 2) for name, shape in block.items()}
    params = draw(19, w0=(5, 6), b0=(6,), head=(6, 4), bias=(4,), **shapes)

    def function(p):
        h = x @ p["w0"] + p["b0"]
        for i in (1, 2):
            inner = jax.nn.relu(h @ p[f"u{i}"] + p[f"c{i}"])
            h = h + inner @ p[f"d{i}"] + p[f"e{i}"]
        return h @ p["head"] + p["bias"]

    return function, params


@truth(groups=(group("k1 b1 b2", "w"), group("k2 b2", "w")))
def mlp_pooling():
    """Max-pooling and mean-pooling are homogeneous: the equations of `mlp_relu`."""
    x = data(8, 8, 6)
    params = draw(20, k1=(6, 7), b1=(7,), k2=(7, 5), b2=(5,), w=(5, 4), b=(4,))

    def function(p):
        h = jax.nn.relu(x @ p["k1"] + p["b1"])
        h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")
        h = jax.nn.relu(h @ p["k2"] + p["b2"])
        return jnp.mean(h, 1) @ p["w"] + p["b"]

    return function, params


@truth(dead="unused switched_off", groups=(group("w1", "w2"),))
def unused_parameters():
    """One leaf is not read; one is multiplied by zero. "ids" is not a float leaf."""
    x = data(11, 5)
    params = draw(21, w1=(5, 7), w2=(7, 4), unused=(3, 6), switched_off=(4,))
    params["ids"] = jnp.arange(8, dtype=jnp.int32)

    def function(p):
        h = jax.nn.relu(x[p["ids"]] @ p["w1"]) @ p["w2"]
        return h + 0.0 * p["switched_off"]

    return function, params
