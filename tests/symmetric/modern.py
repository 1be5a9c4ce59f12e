"""Transformers with RMSNorm and without biases, and single attention layers.

The names are those of `transformers`; gq, gk are the gains of a query and key norm.
"""

import jax
import jax.numpy as jnp

from symmetric.layers import attend, heads, layer_norm, merge, rms_norm, unit
from symmetric.model import data, draw, epsilon, group, truth
from symmetric.transformers import (
    at,
    embed,
    EMBEDDING,
    HEAD,
    IDS,
    MLP,
    mlp,
    NAMES,
    NORMS,
    prefixed,
    read_out,
    self_attention,
)


QKVO = dict(q=(8, 2, 4), k=(8, 2, 4), v=(8, 2, 3), o=(2, 3, 8))
GATED = dict(gate=(8, 10), up=(8, 10), down=(10, 8))
OUT = dict(gf=(8,), head=(8, 7))


def gated(p, x, activation):
    return (activation(x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def qk_normed(p, x, norm):
    """Attention with normalized queries and keys; gains if there are some."""
    query, key = norm(heads(x, p["q"])), norm(heads(x, p["k"]))
    query, key = query * p.get("gq", 1.0), key * p.get("gk", 1.0)
    return merge(attend(query, key, heads(x, p["v"])), p["o"])


def norm_of_heads_together(x):
    return rms_norm(x.reshape(*x.shape[:-2], -1)).reshape(x.shape)


@truth(
    invariant=dict.fromkeys(prefixed(NAMES, "q k v o up down").split(), ()),
    groups=(
        group("E " + prefixed(NAMES, "n1 n2"), prefixed(NAMES, "gate")),
        *(at(i, "gq", "gk") for i in NAMES),
        group("gf", "head"),
    ),
)
def sandwich_norm():
    """OLMo 2: x + n1 RMS(attention(x)), x + n2 RMS(mlp(x)); q and k normalized.

    A norm follows q, k, v o, and up · down: each is invariant. No norm reads the stream
    of degree t = E = n1 = n2 before SiLU, so gate = -t. Norms over all heads: no axes.
    """
    block = QKVO | GATED | dict(gq=(2, 4), gk=(2, 4), n1=(8,), n2=(8,))

    def function(p):
        x = p["E"][IDS]
        for i in NAMES:
            q = p[i]
            x = x + rms_norm(qk_normed(q, x, norm_of_heads_together), q["n1"])
            x = x + rms_norm(gated(q, x, jax.nn.silu), q["n2"])
        return rms_norm(x, p["gf"]) @ p["head"]

    return function, draw(71, E=(11, 8), block_0=block, block_1=block, **OUT)


def qk_norm_groups(*more):
    return (
        group("E P " + prefixed(NAMES, "o down")),
        *(at(i, "v", "o") for i in NAMES),
        *(at(i, "g1", "v") for i in NAMES),
        *(at(i, "g2", "gate up") for i in NAMES),
        *(at(i, "up", "down") for i in NAMES),
        group("gf", "head"),
        *more,
    )


def qk_norm_transformer(p):
    x = embed(p)
    for i in NAMES:
        q = p[i]
        x = x + qk_normed(q, rms_norm(x, q["g1"]), rms_norm)
        x = x + gated(q, rms_norm(x, q["g2"]), jax.nn.silu)
    return rms_norm(x, p["gf"]) @ p["head"]


PER_HEAD = {f"{i}/{name}": (1,) for i in NAMES for name in "qk"}


@truth(invariant=PER_HEAD, groups=qk_norm_groups())
def qk_norm():
    """A norm per head after q and k: invariant per head. So g1 + v + o = t.

    SwiGLU: gate = -g2, and g2 + up + down = t, the degree of the stream.
    """
    block = QKVO | GATED | dict(g1=(8,), g2=(8,))
    return qk_norm_transformer, draw(
        72, **EMBEDDING, block_0=block, block_1=block, **OUT
    )


@truth(
    invariant=PER_HEAD,
    groups=qk_norm_groups(*(at(i, "gq", "gk") for i in NAMES)),
)
def qk_norm_with_gains():
    """As `qk_norm`; the scores also need gq + gk = 0."""
    block = QKVO | GATED | dict(g1=(8,), g2=(8,), gq=(4,), gk=(4,))
    return qk_norm_transformer, draw(
        73, **EMBEDDING, block_0=block, block_1=block, **OUT
    )


@truth(
    groups=(
        group("E P " + prefixed(NAMES, "o down"), "gf"),
        *(at(i, "q", "k") for i in NAMES),
        *(at(i, "v", "o") for i in NAMES),
        *(at(i, "g1", "q k v") for i in NAMES),
        *(at(i, "g2", "up") for i in NAMES),
    )
)
def tied_embeddings():
    """E writes to the stream and is the head: E = P = t, and gf + E = 0."""
    block = QKVO | dict(up=(8, 10), down=(10, 8), g1=(8,), g2=(8,))

    def function(p):
        x = embed(p)
        for i in NAMES:
            q = p[i]
            x = x + self_attention(q, rms_norm(x, q["g1"]))
            x = x + jax.nn.gelu(rms_norm(x, q["g2"]) @ q["up"]) @ q["down"]
        return rms_norm(x, p["gf"]) @ p["E"].T

    return function, draw(74, **EMBEDDING, block_0=block, block_1=block, gf=(8,))


@truth(
    invariant=dict.fromkeys(prefixed(NAMES, "v o up down").split(), ()),
    groups=(
        group("E " + prefixed(NAMES, "n1 n2"), "gf"),
        *(at(i, "q", "k") for i in NAMES),
        *(at(i, "g1", "q k") for i in NAMES),
        *(at(i, "g2", "gate") for i in NAMES),
    ),
)
def gemma():
    """Norms before and after each branch, softcaps of scores and logits, E is the head.

    A norm follows v o and up · down. Scores: 2 g1 + q + k = 0. GELU: g2 + gate = 0.
    Stream: t = E = n1 = n2, and the logits need gf + E = 0.
    """
    block = QKVO | GATED | dict(g1=(8,), g2=(8,), n1=(8,), n2=(8,))

    def attention(q, x):
        scores = jnp.einsum("bqhk,bthk->bhqt", heads(x, q["q"]), heads(x, q["k"]))
        weights = jax.nn.softmax(50.0 * jnp.tanh(scores / 50.0))
        return merge(jnp.einsum("bhqt,bthk->bqhk", weights, heads(x, q["v"])), q["o"])

    def function(p):
        x = p["E"][IDS] * 8.0**0.5
        for i in NAMES:
            q = p[i]
            x = x + rms_norm(attention(q, rms_norm(x, q["g1"])), q["n1"])
            x = x + rms_norm(gated(q, rms_norm(x, q["g2"]), jax.nn.gelu), q["n2"])
        return 30.0 * jnp.tanh(rms_norm(x, p["gf"]) @ p["E"].T / 30.0)

    return function, draw(75, E=(11, 8), block_0=block, block_1=block, gf=(8,))


NGPT = QKVO | GATED | dict(g_qk=(2, 4), g_a=(8,), g_m=(8,), g_up=(10,), g_gate=(10,))
NGPT_AXES = dict(q=(1, 2), k=(1, 2), v=(1, 2), o=(0, 1), gate=(1,), up=(1,), down=(0,))
NGPT_AXES |= dict(g_up=())


@truth(
    invariant={"E": (0,), "head": (1,)}
    | {f"{i}/{name}": axes for i in NAMES for name, axes in NGPT_AXES.items()},
)
def ngpt():
    """All vectors along the embedding axis are normalized: an axis per vector.

    x = |x + α (|f(x)| - x)|: α (g_a, g_m) is seen. g_up scales the branch, and a norm
    follows: invariant. g_gate is inside SiLU, g_qk inside softmax, g_z at the logits.
    """

    def function(p):
        x = unit(p["E"])[IDS]
        for i in NAMES:
            q = p[i]
            w = {name: unit(q[name], 0) for name in ("q", "k", "v", "gate", "up")}
            w |= {name: unit(q[name], -1) for name in ("o", "down")}
            w |= {"gq": q["g_qk"] * 2.0, "gk": q["g_qk"]}
            x = unit(x + q["g_a"] * (unit(qk_normed(w, x, unit)) - x))
            gate = jax.nn.silu(q["g_gate"] * 3.0 * (x @ w["gate"]))
            branch = (gate * (q["g_up"] * (x @ w["up"]))) @ w["down"]
            x = unit(x + q["g_m"] * (unit(branch) - x))
        return p["g_z"] * (x @ unit(p["head"], 0))

    params = draw(76, E=(11, 8), block_0=NGPT, block_1=NGPT, head=(8, 7), g_z=(7,))
    return function, params


GPT2 = dict(fused=(8, 24), fused_b=(24,), o=(8, 8), ob=(8,)) | MLP | NORMS


@truth(
    groups=(
        group("E P " + prefixed(NAMES, "o ob down db")),
        *(at(i, "g1 s1", "fused") for i in NAMES),
        *(at(i, "g2 s2", "up") for i in NAMES),
        group("gf sf", "head"),
    )
)
def gpt2():
    """One kernel for q, k and v, split along its last axis: g1 + fused = 0 = fused_b.

    Query and key are in one leaf, so 2 (g1 + fused) = 0. It is not a stack.
    """

    def attention(q, x):
        parts = jnp.split(x @ q["fused"] + q["fused_b"], 3, -1)
        query, key, value = (y.reshape(*y.shape[:2], 2, 4) for y in parts)
        y = attend(query, key, value)
        return y.reshape(*y.shape[:2], 8) @ q["o"] + q["ob"]

    def function(p):
        x = embed(p)
        for i in NAMES:
            q = p[i]
            x = x + attention(q, layer_norm(x, q["g1"], q["s1"]))
            x = x + mlp(q, layer_norm(x, q["g2"], q["s2"]), jax.nn.gelu)
        return read_out(p, x)

    return function, draw(77, **EMBEDDING, block_0=GPT2, block_1=GPT2, **HEAD)


@truth(groups=(group("q tau"), group("k tau"), group("v", "o")))
def temperature_attention():
    """softmax(q·k/τ): q + k - τ = 0."""
    x = data(8, 5, 6)
    params = draw(78, q=(6, 2, 4), k=(6, 2, 4), v=(6, 2, 3), o=(2, 3, 7), tau=())

    def function(p):
        query = heads(x, p["q"]) / p["tau"]
        return merge(attend(query, heads(x, p["k"]), heads(x, p["v"])), p["o"])

    return function, params


@truth(dead="kb", groups=(group("q qb", "k"), group("v vb", "o")))
def relative_position_bias():
    """The bias of the scores needs degree 0. kb is dead with it and with a mask."""
    x = data(8, 5, 6)
    shapes = dict(q=(6, 2, 4), qb=(2, 4), k=(6, 2, 4), kb=(2, 4), v=(6, 2, 3))

    def function(p):
        query, key = heads(x, p["q"], p["qb"]), heads(x, p["k"], p["kb"])
        scores = jnp.einsum("bqhk,bthk->bhqt", query, key)
        scores = scores + p["relative"][:, jnp.arange(5)[:, None] - jnp.arange(5) + 4]
        mask = jnp.tril(jnp.ones((5, 5), bool))
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30))
        y = jnp.einsum("bhqt,bthk->bqhk", weights, heads(x, p["v"], p["vb"]))
        return merge(y, p["o"], p["ob"])

    params = draw(79, **shapes, vb=(2, 3), relative=(2, 9), o=(2, 3, 7), ob=(7,))
    return function, params


@truth(invariant={"q": (1,), "k": (1,)}, groups=(group("v", "o"),))
def linear_attention():
    """relu(q)·Σ relu(k) vᵀ / relu(q)·Σ relu(k): the quotient has degree 0 per head."""
    x = data(8, 5, 6)
    params = draw(80, q=(6, 2, 7), k=(6, 2, 7), v=(6, 2, 3), o=(2, 3, 4))

    def function(p):
        query, key = jax.nn.relu(heads(x, p["q"])), jax.nn.relu(heads(x, p["k"]))
        state = jnp.einsum("bthk,bthv->bhkv", key, heads(x, p["v"]))
        above = jnp.einsum("bqhk,bhkv->bqhv", query, state)
        below = jnp.einsum("bqhk,bhk->bqh", query, key.sum(1))
        return merge(above / (below + epsilon(1e-6))[..., None], p["o"])

    return function, params
