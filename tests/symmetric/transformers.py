"""Transformers with LayerNorm and biases.

Names: E token and P position embedding; q, k, v, o kernels of the attention with the
biases qb, kb, vb, ob; g1, s1, g2, s2, gf, sf norms; up, ub, down, db; head, hb.

Facts used: softmax does not see a constant that is added to all scores of a query, so
kb is dead. Scores need degree 0: q + k = 0. The output is attention · v · o, so v + o.
"""

import jax
import jax.numpy as jnp

from symmetric.layers import attend, conv, heads, layer_norm, merge
from symmetric.model import data, draw, group, tokens, truth


NAMES = ("block_0", "block_1")
ATTENTION = dict(q=(8, 2, 3), k=(8, 2, 3), v=(8, 2, 5), o=(2, 5, 8))
ATTENTION |= dict(qb=(2, 3), kb=(2, 3), vb=(2, 5), ob=(8,))
MLP = dict(up=(8, 10), ub=(10,), down=(10, 8), db=(8,))
NORMS = dict(g1=(8,), s1=(8,), g2=(8,), s2=(8,))
BLOCK = ATTENTION | MLP | NORMS
EMBEDDING = dict(E=(11, 8), P=(6, 8))
HEAD = dict(gf=(8,), sf=(8,), head=(8, 7), hb=(7,))
IDS = tokens(8, 6, 11)


def at(block, positive, negative=""):
    """A group of one block: `at("a", "q qb", "k")` is group("a/q a/qb", "a/k")."""
    return group(*(prefixed(block, names) for names in (positive, negative)))


def prefixed(blocks, names):
    blocks = (blocks,) if isinstance(blocks, str) else blocks
    return " ".join(f"{block}/{name}" for block in blocks for name in names.split())


def self_attention(p, x, inputs=None):
    inputs = x if inputs is None else inputs
    query = heads(x, p["q"], p.get("qb"))
    key = heads(inputs, p["k"], p.get("kb"))
    value = heads(inputs, p["v"], p.get("vb"))
    return merge(attend(query, key, value), p["o"], p.get("ob"))


def mlp(p, x, activation):
    return activation(x @ p["up"] + p["ub"]) @ p["down"] + p["db"]


def pre_norm(p, x, activation=jax.nn.gelu):
    x = x + self_attention(p, layer_norm(x, p["g1"], p["s1"]))
    return x + mlp(p, layer_norm(x, p["g2"], p["s2"]), activation)


def embed(p):
    return p["E"][IDS] + p["P"]


def read_out(p, x):
    return layer_norm(x, p["gf"], p["sf"]) @ p["head"] + p["hb"]


@truth(
    dead=prefixed(NAMES, "kb"),
    groups=(
        group("E P " + prefixed(NAMES, "o ob down db")),
        *(at(i, "q qb", "k") for i in NAMES),
        *(at(i, "v vb", "o") for i in NAMES),
        *(at(i, "g1 s1", "q k v") for i in NAMES),
        *(at(i, "g2 s2", "up") for i in NAMES),
        group("gf sf", "head"),
    ),
)
def pre_ln():
    """Norms read the stream, so its degree t is free: E = P = ob = db = t.

    Block: g1 = s1; qb = g1 + q = -(g1 + k); vb = g1 + v = t - o; g2 = s2 = -up, ub = 0;
    down = t. Free: t, and g1, q, v, g2 of each block, and gf = sf = -head.
    """

    def function(p):
        x = embed(p)
        for i in NAMES:
            x = pre_norm(p[i], x)
        return read_out(p, x)

    return function, draw(61, **EMBEDDING, block_0=BLOCK, block_1=BLOCK, **HEAD)


@truth(
    groups=(
        group("E P " + prefixed(NAMES, "o down")),
        *(at(i, "q", "k") for i in NAMES),
        *(at(i, "v", "o") for i in NAMES),
        *(at(i, "g1", "q k v") for i in NAMES),
        *(at(i, "g2", "up") for i in NAMES),
        *(at(i, "up", "down") for i in NAMES),
        group("gf", "head"),
    ),
)
def pre_ln_no_bias_relu():
    """As `pre_ln`; ReLU adds g2 + up + down = t instead of g2 + up = 0."""
    block = dict(q=(8, 2, 3), k=(8, 2, 3), v=(8, 2, 3), o=(2, 3, 8), g1=(8,), g2=(8,))
    block |= dict(up=(8, 10), down=(10, 8))

    def function(p):
        x = embed(p)
        for i in NAMES:
            q = p[i]
            x = x + self_attention(q, layer_norm(x, q["g1"]))
            hidden = jax.nn.relu(layer_norm(x, q["g2"]) @ q["up"])
            x = x + hidden @ q["down"]
        return layer_norm(x, p["gf"]) @ p["head"]

    params = draw(62, **EMBEDDING, block_0=block, block_1=block, gf=(8,), head=(8, 7))
    return function, params


@truth(
    dead=prefixed(NAMES, "kb"),
    groups=(
        group("E P block_0/vb block_0/ob", "block_0/q block_0/k"),
        *(at(i, "q qb", "k") for i in NAMES),
        *(at(i, "v vb", "o") for i in NAMES),
        *(at(i, "g1 s1 down db", "up") for i in NAMES),
        group("block_0/g2 block_0/s2 block_1/vb block_1/ob", "block_1/q block_1/k"),
        group("block_1/g2 block_1/s2", "head"),
    ),
)
def post_ln():
    """x = LN(x + f(x)): f must have the degree d of x, which each norm sets again.

    Attention: qb = d + q = -(d + k), vb = d + v = d - o, ob = d. MLP with GELU:
    up = -d, ub = 0, down = db = d. d is E = P, then g1 = s1, g2 = s2, and so on.
    """

    def function(p):
        x = embed(p)
        for i in NAMES:
            q = p[i]
            x = layer_norm(x + self_attention(q, x), q["g1"], q["s1"])
            x = layer_norm(x + mlp(q, x, jax.nn.gelu), q["g2"], q["s2"])
        return x @ p["head"] + p["hb"]

    params = draw(63, **EMBEDDING, block_0=BLOCK, block_1=BLOCK, head=(8, 7), hb=(7,))
    return function, params


PARALLEL = ATTENTION | MLP | dict(g1=(8,), s1=(8,))


@truth(
    dead=prefixed(NAMES, "kb"),
    groups=(
        group("E P " + prefixed(NAMES, "o ob down db")),
        *(at(i, "q qb", "k") for i in NAMES),
        *(at(i, "v vb", "o") for i in NAMES),
        *(at(i, "g1 s1", "q k v up") for i in NAMES),
        group("gf sf", "head"),
    ),
)
def parallel_blocks():
    """x + attention(LN(x)) + mlp(LN(x)): one norm for both, so g1 = -up with GELU."""

    def function(p):
        x = embed(p)
        for i in NAMES:
            h = layer_norm(x, p[i]["g1"], p[i]["s1"])
            x = x + self_attention(p[i], h) + mlp(p[i], h, jax.nn.gelu)
        return read_out(p, x)

    params = draw(64, **EMBEDDING, block_0=PARALLEL, block_1=PARALLEL, **HEAD)
    return function, params


VIT = dict(patch=(2, 2, 3, 8), patch_b=(8,), token=(8,), P=(7, 8))


@truth(
    dead="block/kb",
    groups=(
        group("patch patch_b token P " + prefixed("block", "o ob down db")),
        at("block", "q qb", "k"),
        at("block", "v vb", "o"),
        at("block", "g1 s1", "q k v"),
        at("block", "g2 s2", "up"),
        group("gf sf", "head"),
    ),
)
def vision_transformer():
    """The class token is a part of the stream. The head reads its position only."""
    images = data(8, 3, 4, 3)

    def function(p):
        patches = conv(images, p["patch"], p["patch_b"], "VALID").reshape(8, 6, 8)
        token = jnp.broadcast_to(p["token"], (8, 1, 8))
        x = jnp.concatenate((token, patches), 1) + p["P"]
        return read_out(p, pre_norm(p["block"], x)[:, 0])

    return function, draw(65, **VIT, block=BLOCK, **HEAD)


@truth(
    dead="cross/kb",
    groups=(
        group("E P cross/o cross/ob"),
        group("source source_b"),
        group("ge se", "cross/k cross/v"),
        group("g1 s1", "cross/q"),
        at("cross", "q qb", "k"),
        at("cross", "v vb", "o"),
        group("gf sf", "head"),
    ),
)
def cross_attention():
    """Queries read the norm g1 of the stream; keys and values the norm ge.

    qb = g1 + q = -(ge + k); vb = ge + v = t - o; source = source_b, then a norm.
    """
    memory = data(8, 4, 5)
    shapes = dict(source=(5, 8), source_b=(8,), ge=(8,), se=(8,), g1=(8,), s1=(8,))

    def function(p):
        x = embed(p)
        source = memory @ p["source"] + p["source_b"]
        source = layer_norm(source, p["ge"], p["se"])
        query = layer_norm(x, p["g1"], p["s1"])
        return read_out(p, x + self_attention(p["cross"], query, source))

    return function, draw(66, **EMBEDDING, cross=ATTENTION, **shapes, **HEAD)


MIXER = dict(t_up=(6, 9), t_ub=(9,), t_down=(9, 6), t_db=(6,)) | MLP | NORMS


@truth(
    dead=prefixed(NAMES, "t_db"),
    groups=(
        group("E b " + prefixed(NAMES, "t_down down db")),
        *(at(i, "g1 s1", "t_up") for i in NAMES),
        *(at(i, "g2 s2", "up") for i in NAMES),
        group("gf sf", "head"),
    ),
)
def mlp_mixer():
    """E, b embed the patches. Two MLPs with GELU write to the stream.

    t_db adds one number to all channels of a token. Each LayerNorm removes it: dead.
    """
    patches = data(9, 6, 5)

    def function(p):
        x = patches @ p["E"] + p["b"]
        for i in NAMES:
            q = p[i]
            mixed = layer_norm(x, q["g1"], q["s1"]).swapaxes(1, 2)
            mixed = jax.nn.gelu(mixed @ q["t_up"] + q["t_ub"]) @ q["t_down"] + q["t_db"]
            x = x + mixed.swapaxes(1, 2)
            x = x + mlp(q, layer_norm(x, q["g2"], q["s2"]), jax.nn.gelu)
        return read_out(p, x.mean(1))

    return function, draw(67, E=(5, 8), b=(8,), block_0=MIXER, block_1=MIXER, **HEAD)
