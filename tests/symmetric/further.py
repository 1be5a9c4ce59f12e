"""Shared layers, powers, conditioning, dense connections, and other norms."""

import jax
import jax.numpy as jnp

from symmetric.layers import (
    attend,
    conv,
    heads,
    layer_norm,
    merge,
    rms_norm,
    standardize,
    unit,
)
from symmetric.model import data, draw, epsilon, group, truth


@truth(groups=(group("first", "head"), group("w", "head*2")))
def layer_used_twice():
    """head relu(w relu(w relu(first x))): first + 2 w + head = 0."""
    x = data(8, 5)
    params = draw(131, first=(5, 6), w=(6, 6), head=(6, 4))

    def function(p):
        h = jax.nn.relu(x @ p["first"])
        return jax.nn.relu(jax.nn.relu(h @ p["w"]) @ p["w"]) @ p["head"]

    return function, params


@truth(groups=(group("first b", "head"),))
def biased_layer_used_twice():
    """b = first + w and b = (first + w) + w, so w = 0."""
    x = data(8, 5)
    params = draw(132, first=(5, 6), w=(6, 6), b=(6,), head=(6, 4))

    def function(p):
        h = x @ p["first"]
        for _ in range(2):
            h = jax.nn.leaky_relu(h @ p["w"] + p["b"])
        return h @ p["head"]

    return function, params


@truth(groups=(group("w1", "w3*4"), group("w2", "w3*2")))
def two_squared_relus():
    """Each square doubles the degree: 2 (2 w1 + w2) + w3 = 0."""
    x = data(8, 5)
    params = draw(133, w1=(5, 7), w2=(7, 6), w3=(6, 4))

    def function(p):
        h = jnp.square(jax.nn.relu(x @ p["w1"]))
        return jnp.square(jax.nn.relu(h @ p["w2"])) @ p["w3"]

    return function, params


@truth(groups=(group("w1*2 b1*2", "w2"),))
def square_root():
    """sqrt(relu(h)) has half the degree: w1 + 2 w2 = 0."""
    x = data(8, 5)
    params = draw(134, w1=(5, 7), b1=(7,), w2=(7, 4))

    def function(p):
        h = x @ p["w1"] + p["b1"]
        # The root of 1 where h < 0, so that no derivative is infinite.
        root = jnp.sqrt(jnp.where(h > 0, h, 1.0))
        return jnp.where(h > 0, root, 0.0) @ p["w2"]

    return function, params


@truth(invariant={"w1": (), "w2": (1,)})
def other_norms():
    """h/Σ|h| over the features, and w2 divided by max|w2| of each column."""
    x = data(8, 5)
    params = draw(135, w1=(5, 7), w2=(7, 6), w3=(6, 4))

    def function(p):
        h = jax.nn.relu(x @ p["w1"])
        h = h / (jnp.sum(jnp.abs(h), -1, keepdims=True) + epsilon(1e-6))
        w2 = p["w2"] / jnp.max(jnp.abs(p["w2"]), 0, keepdims=True)
        return jax.nn.relu(h @ w2) @ p["w3"]

    return function, params


@truth(groups=(group("gain_w shift_w", "head"), group("w shift_w", "head")))
def film():
    """relu((c gain_w)(x w) + c shift_w) head: gain_w + w = shift_w = -head."""
    x, c = data(8, 5), data(8, 3, seed=7)
    params = draw(136, gain_w=(3, 7), shift_w=(3, 7), w=(5, 7), head=(7, 4))

    def function(p):
        h = (c @ p["gain_w"]) * (x @ p["w"]) + c @ p["shift_w"]
        return jax.nn.relu(h) @ p["head"]

    return function, params


ADAPTIVE = dict(up=(8, 10), ub=(10,), down=(10, 8), db=(8,), gw=(3, 8), gb=(8,))
ADAPTIVE |= dict(sw=(3, 8), sb=(8,), aw=(3, 8), ab=(8,))


@truth(
    groups=(
        group("E block_0/aw block_0/ab block_1/aw block_1/ab"),
        *(
            group(f"block_{i}/down block_{i}/db", f"block_{i}/aw block_{i}/ab")
            for i in (0, 1)
        ),
        group("gf sf", "head"),
    )
)
def adaptive_layer_norm():
    """DiT: x + α(c) mlp(LN(x) (1 + γ(c)) + β(c)) with α = c aw + ab, γ with gw, β sw.

    1 + γ: gw = gb = 0, so β and up are seen, too (GELU). Stream: t = E = α + down.
    """
    x, c = data(8, 5), data(8, 3, seed=7)
    shapes = dict(E=(5, 8), gf=(8,), sf=(8,), head=(8, 4))

    def function(p):
        h = x @ p["E"]
        for q in (p["block_0"], p["block_1"]):
            inner = layer_norm(h) * (1 + c @ q["gw"] + q["gb"]) + c @ q["sw"] + q["sb"]
            inner = jax.nn.gelu(inner @ q["up"] + q["ub"]) @ q["down"] + q["db"]
            h = h + (c @ q["aw"] + q["ab"]) * inner
        return layer_norm(h, p["gf"], p["sf"]) @ p["head"]

    return function, draw(137, **shapes, block_0=ADAPTIVE, block_1=ADAPTIVE)


@truth(groups=(group("q qb"), group("k kb"), group("v vb", "o")))
def cosine_attention():
    """Swin v2: softmax(cos(q, k)/τ). A norm follows k + kb, so kb is not dead.

    q = qb and k = kb: not per head, since a bias belongs to each head. τ is seen.
    """
    x = data(8, 5, 6)
    shapes = dict(q=(6, 2, 4), qb=(2, 4), k=(6, 2, 4), kb=(2, 4), v=(6, 2, 3))
    params = draw(138, **shapes, vb=(2, 3), o=(2, 3, 7), ob=(7,), tau=(2, 1))

    def function(p):
        query = unit(heads(x, p["q"], p["qb"]), eps=1e-6) / p["tau"]
        key = unit(heads(x, p["k"], p["kb"]), eps=1e-6)
        y = attend(query, key, heads(x, p["v"], p["vb"]))
        return merge(y, p["o"], p["ob"])

    return function, params


@truth(
    invariant={"k1": (3,), "k2": (3,)},
    groups=(group("g1 s1"), group("g2 s2", "w")),
)
def dense_net():
    """A batch norm reads each earlier channel on its own. g1 = s1 are before k2."""
    x = data(8, 5, 4, 3)
    shapes = dict(k1=(3, 3, 3, 4), g1=(7,), s1=(7,), k2=(3, 3, 7, 5), g2=(12,))

    def function(p):
        h = jnp.concatenate((x, conv(x, p["k1"])), -1)
        inner = jax.nn.relu(standardize(h, (0, 1, 2)) * p["g1"] + p["s1"])
        h = jnp.concatenate((h, conv(inner, p["k2"])), -1)
        h = jax.nn.relu(standardize(h, (0, 1, 2)) * p["g2"] + p["s2"])
        return h.mean((1, 2)) @ p["w"] + p["b"]

    return function, draw(139, **shapes, s2=(12,), w=(12, 4), b=(4,))


@truth(
    invariant={"w[0]": ()},
    groups=(group("w[1]", "w[2]"),),
    stacks=dict(w=0),
)
def python_index_mixed():
    """w[0] is before a norm, w[1] before ReLU, w[2] at the outputs."""
    x = data(8, 6)

    def function(p):
        w = p["w"]
        return jax.nn.relu(rms_norm(x @ w[0]) @ w[1]) @ w[2]

    return function, draw(140, w=(3, 6, 6))


@truth(groups=(group("w1 b1", "w2"), group("first", "w1")))
def remat_and_jit():
    """Nested jit, checkpoint and custom derivatives do not matter: first + w1 = b1."""
    x = data(8, 5)
    params = draw(141, first=(5, 6), w1=(6, 7), b1=(7,), w2=(7, 4))

    @jax.custom_jvp
    def relu(h):
        return jnp.maximum(h, 0.0)

    relu.defjvp(lambda h, dh: (relu(*h), jnp.where(h[0] > 0, dh[0], 0.0)))

    @jax.jit
    @jax.checkpoint
    def layer(h, w, b):
        return relu(h @ w + b)

    return lambda p: layer(x @ p["first"], p["w1"], p["b1"]) @ p["w2"], params


@truth(groups=(group("a", "b"),), dead="c")
def masked_branch():
    """x a b + 0 · x c: the branch with c is multiplied by a constant mask of zeros."""
    x = data(8, 5)
    mask = jnp.zeros(4, jnp.float32)
    params = draw(142, a=(5, 7), b=(7, 4), c=(5, 4))
    return lambda p: x @ p["a"] @ p["b"] + mask * (x @ p["c"]), params
