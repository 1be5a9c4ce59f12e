"""Convolutional networks: kernels are HWIO, so axis 3 is the output channel."""

import jax
import jax.numpy as jnp
from jax import lax

from symmetric.layers import conv, group_norm, layer_norm, standardize
from symmetric.model import data, draw, group, truth


CONVS = dict(k1=(3, 3, 2, 4), k2=(2, 3, 4, 6), w=(6, 5), b=(5,))
BIASES = dict(b1=(4,), b2=(6,))
GAINS = dict(g1=(4,), s1=(4,), g2=(6,), s2=(6,))


def cnn(p, x, norm):
    for i in (1, 2):
        h = norm(conv(x, p[f"k{i}"], p.get(f"b{i}")))
        if f"g{i}" in p:
            h = h * p[f"g{i}"] + p[f"s{i}"]
        x = jax.nn.relu(h)
    return jnp.mean(x, (1, 2)) @ p["w"] + p["b"]


def batch_norm(h):
    return standardize(h, (0, 1, 2), 1e-5)


def instance_norm(h):
    return standardize(h, (1, 2), 1e-5)


@truth(
    invariant={"k1": (3,), "k2": (3,)},
    dead="b1 b2",
    groups=(group("g1 s1"), group("g2 s2", "w")),
)
def batch_norm_conv_bias():
    """The norm removes scale and mean of each channel: k1, k2 invariant, b1, b2 dead.

    g1 = s1, and k2 with its norm removes their scale. g2 = s2 = -w.
    """
    x = data(8, 5, 6, 2)
    return lambda p: cnn(p, x, batch_norm), draw(31, **CONVS, **BIASES, **GAINS)


@truth(
    invariant={"k1": (3,), "k2": (3,)},
    groups=(group("g1 s1"), group("g2 s2", "w")),
)
def batch_norm_cnn():
    """As with conv biases, but without these dead leaves."""
    x = data(9, 5, 6, 2)
    return lambda p: cnn(p, x, batch_norm), draw(32, **CONVS, **GAINS)


@truth(groups=(group("k1 b1"), group("g1 s1 b2"), group("k2 b2"), group("g2 s2", "w")))
def group_norm_conv_bias():
    """Two channels share a norm, so the biases matter: as LayerNorm with biases."""
    x = data(8, 5, 6, 2)
    params = draw(33, **CONVS, **BIASES, **GAINS)
    return lambda p: cnn(p, x, lambda h: group_norm(h, 2)), params


@truth(
    invariant={"k1": (), "k2": ()},
    groups=(group("g1 s1"), group("g2 s2", "w")),
)
def group_norm_cnn():
    """Filters of one group share a norm: only whole kernels are invariant."""
    x = data(9, 5, 6, 2)
    params = draw(34, **CONVS, **GAINS)
    return lambda p: cnn(p, x, lambda h: group_norm(h, 2)), params


@truth(invariant={"k1": (3,), "k2": (3,)}, dead="b1 b2")
def instance_norm_no_gain():
    """A norm per image and channel. The head reads it: w and b seen."""
    x = data(8, 5, 6, 2)
    return lambda p: cnn(p, x, instance_norm), draw(35, **CONVS, **BIASES)


@truth(
    invariant={"k1": (3,), "k2": (3,)},
    groups=(group("g1 b1 b2", "w"), group("g2 b2", "w")),
)
def weight_standardization():
    """Kernels are standardized per filter. The gains take the place of kernels."""
    x = data(8, 5, 6, 2)
    params = draw(36, **CONVS, **BIASES, g1=(4,), g2=(6,))

    def function(p):
        h = x
        for i in (1, 2):
            kernel = standardize(p[f"k{i}"], (0, 1, 2), 1e-4)
            h = jax.nn.relu(conv(h, kernel * p[f"g{i}"], p[f"b{i}"]))
        return jnp.mean(h, (1, 2)) @ p["w"] + p["b"]

    return function, params


RESNET = dict(
    stem=(3, 3, 2, 4),
    **{f"k{i}": (3, 3, 4, 4) for i in (1, 2)},
    k3=(3, 3, 4, 6),
    k4=(3, 3, 6, 6),
    k5=(1, 1, 4, 6),
)


@truth(
    invariant={"stem": (3,)} | {f"k{i}": (3,) for i in range(1, 6)},
    groups=(
        group("g0 s0 g2 s2"),
        group("g1 s1"),
        group("g3 s3"),
        group("g4 s4 g5 s5", "w"),
    ),
)
def resnet():
    """relu(x + BN(conv relu BN(conv x))), then a block with a projected shortcut.

    The first stream has the degree g0 = s0 = g2 = s2. Only k3 and k5 (and k1)
    read it, and a norm follows them. The second stream has the degree
    g4 = s4 = g5 = s5 = -w.
    """
    x = data(8, 5, 4, 2)
    widths = dict(enumerate((4, 4, 4, 6, 6, 6)))
    gains = {f"g{i}": (n,) for i, n in widths.items()}
    shifts = {f"s{i}": (n,) for i, n in widths.items()}

    def function(p):
        def layer(h, name, i):
            return batch_norm(conv(h, p[name])) * p[f"g{i}"] + p[f"s{i}"]

        h = jax.nn.relu(layer(x, "stem", 0))
        inner = jax.nn.relu(layer(h, "k1", 1))
        h = jax.nn.relu(h + layer(inner, "k2", 2))
        inner = jax.nn.relu(layer(h, "k3", 3))
        h = jax.nn.relu(layer(h, "k5", 5) + layer(inner, "k4", 4))
        return jnp.mean(h, (1, 2)) @ p["w"] + p["b"]

    return function, draw(37, **RESNET, **gains, **shifts, w=(6, 5), b=(5,))


NEXT = dict(depth=(3, 3, 1, 6), db=(6,), g=(6,), s=(6,), up=(6, 9), ub=(9,))
NEXT |= dict(down=(9, 6), b=(6,), gamma=(6,))


@truth(
    groups=(
        group("stem stem_b"),
        group("g0 s0 block_0/db block_0/gamma block_1/db block_1/gamma"),
        *(
            one
            for i in ("block_0", "block_1")
            for one in (
                group(f"{i}/depth {i}/db"),
                group(f"{i}/g {i}/s", f"{i}/up"),
                group(f"{i}/down {i}/b", f"{i}/gamma"),
            )
        ),
        group("gf sf", "w"),
    )
)
def convnext():
    """x + γ (down gelu(up LN(depthwise x))), with a norm after the stem.

    The stream has the degree t = g0 = s0 = γ + down, and b = down. The depthwise
    convolution reads the stream: db = depth + t, then a norm. g = s = -up, ub = 0.
    """
    x = data(8, 5, 4, 2)
    shapes = dict(stem=(2, 2, 2, 6), stem_b=(6,), g0=(6,), s0=(6,), gf=(6,), sf=(6,))

    def function(p):
        h = layer_norm(conv(x, p["stem"], p["stem_b"]), p["g0"], p["s0"], 1e-6)
        for q in (p["block_0"], p["block_1"]):
            inner = conv(h, q["depth"], q["db"], groups=6)
            inner = layer_norm(inner, q["g"], q["s"], 1e-6) @ q["up"] + q["ub"]
            h = h + q["gamma"] * (jax.nn.gelu(inner) @ q["down"] + q["b"])
        h = layer_norm(jnp.mean(h, (1, 2)), p["gf"], p["sf"], 1e-6)
        return h @ p["w"] + p["b"]

    params = draw(38, **shapes, block_0=NEXT, block_1=NEXT, w=(6, 5), b=(5,))
    return function, params


@truth(groups=(group("k b", "v1 w"), group("v1 c1", "v2")))
def squeeze_and_excite():
    """h σ(v2 relu(v1 mean(h) + c1) + c2): c1 = k + v1 = -v2, c2 = 0, w = -k = -b."""
    x = data(8, 5, 6, 2)
    shapes = dict(k=(3, 3, 2, 6), b=(6,), v1=(6, 4), c1=(4,), v2=(4, 6), c2=(6,))

    def function(p):
        h = jax.nn.relu(conv(x, p["k"], p["b"]))
        gate = jax.nn.relu(jnp.mean(h, (1, 2)) @ p["v1"] + p["c1"])
        gate = jax.nn.sigmoid(gate @ p["v2"] + p["c2"])
        return jnp.mean(h * gate[:, None, None], (1, 2)) @ p["w"]

    return function, draw(39, **shapes, w=(6, 5))


@truth(groups=(group("filters b", "w"),))
def fourier_layer():
    """A complex leaf: relu(irfft(filters · rfft(x)) + b) w has filters = b = -w."""
    x = data(8, 10, 3)
    params = draw(40, filters=(6, 3, 4), b=(4,), w=(4, 5))
    imaginary = draw(41, f=(6, 3, 4))["f"]
    params["filters"] = lax.complex(params["filters"], imaginary)

    def function(p):
        modes = jnp.einsum("bfi,fio->bfo", jnp.fft.rfft(x, axis=1), p["filters"])
        h = jax.nn.relu(jnp.fft.irfft(modes, 10, axis=1) + p["b"])
        return jnp.mean(h, 1) @ p["w"]

    return function, params
