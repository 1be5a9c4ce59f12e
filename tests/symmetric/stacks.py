"""Stacked layers: the symmetries of each slice, "w[1]" or "w[:,1]"."""

import jax
import jax.numpy as jnp
from jax import lax

from symmetric.layers import attend, layer_norm, merge, rms_norm
from symmetric.model import data, draw, group, truth
from symmetric.transformers import (
    BLOCK,
    embed,
    EMBEDDING,
    HEAD,
    MLP,
    mlp,
    NORMS,
    pre_norm,
    read_out,
)


def every(positive: str, negative: str = "", count: int = 3):
    """The same group for each index: `every("w", "v")` is w[i]: 1, v[i]: -1."""
    return tuple(
        group(*(" ".join(f"{n}[{i}]" for n in s.split()) for s in (positive, negative)))
        for i in range(count)
    )


def all_of(names: str, count: int = 3) -> str:
    return " ".join(f"{name}[{i}]" for name in names.split() for i in range(count))


@truth(
    invariant={"w[0]": (), "w[1]": (), "w[2]": (), "g[0]": (), "g[1]": ()},
    groups=(group("g[2]", "head"),),
    stacks=dict(w=0, g=0),
)
def scan_rms_norm():
    """relu(g_i RMS(h w_i)): a norm follows each w, g_0 and g_1. The head reads g_2."""
    x = data(8, 6)

    def function(p):
        def body(h, q):
            return jax.nn.relu(rms_norm(h @ q["w"], q["g"])), None

        h = lax.scan(body, x.astype(p["g"].dtype), {"w": p["w"], "g": p["g"]})[0]
        return h @ p["head"]

    return function, draw(111, w=(3, 6, 6), g=(3, 6), head=(6, 4))


@truth(
    groups=(*every("w b"), group("g[0] b[1]"), group("g[1] b[2]")),
    stacks=dict(w=0, b=0, g=0),
)
def scan_bias_norm():
    """g_i RMS(h w_i + b_i): b_i = g_(i-1) + w_i. The output is seen: g_2 = 0."""
    x = data(8, 6)

    def function(p):
        def body(h, q):
            return rms_norm(h @ q["w"] + q["b"], q["g"]), None

        return lax.scan(body, x.astype(p["g"].dtype), p)[0]

    return function, draw(112, w=(3, 6, 6), b=(3, 6), g=(3, 6))


@truth(
    invariant={"w[0]": (), "w[2]": ()},
    dead="b[0] b[2]",
    groups=(group("w[1] b[1]"),),
    stacks=dict(w=0, b=0),
)
def scan_with_flags():
    """The layers 0 and 2 are RMS(h w), layer 1 is relu(h w + b): b_1 = w_1."""
    x, flags = data(8, 6), jnp.array([True, False, True])

    def function(p):
        def body(h, layer):
            q, flag = layer
            h = h @ q["w"]
            return jnp.where(flag, rms_norm(h), jax.nn.relu(h + q["b"])), None

        stack = {"w": p["w"], "b": p["b"]}
        h = lax.scan(body, x.astype(p["w"].dtype), (stack, flags))[0]
        return h @ p["head"]

    return function, draw(113, w=(3, 6, 6), b=(3, 6), head=(6, 4))


@truth(
    groups=(
        group("w[0]", "head[0] head[1] head[2]"),
        group("w[1]", "head[1] head[2]"),
        group("w[2]", "head[2]"),
    ),
    stacks=dict(w=0, head=0),
)
def scan_outputs():
    """Σ_i h_i head_i, h_i = relu(h_(i-1) w_i): head_i = -(w_0 + ... + w_i)."""
    x = data(8, 6)

    def function(p):
        def body(h, q):
            h = jax.nn.relu(h @ q["w"])
            return h, h @ q["head"]

        return lax.scan(body, x.astype(p["w"].dtype), p)[1].sum(0)

    return function, draw(114, w=(3, 6, 6), head=(3, 6, 4))


@truth(
    groups=(
        group("first b[0] b[1] b[2]", "head"),
        group("w[0] b[0] b[1] b[2]", "head"),
        group("w[1] b[1] b[2]", "head"),
        group("w[2] b[2]", "head"),
    ),
    stacks=dict(w=0, b=0),
)
def loop_with_index():
    """b_i = first + w_0 + ... + w_i, and head = -b_2."""
    x = data(8, 5)

    def function(p):
        def body(i, h):
            return jax.nn.relu(h @ p["w"][i] + p["b"][i])

        return lax.fori_loop(0, 3, body, x @ p["first"]) @ p["head"]

    return function, draw(115, first=(5, 6), w=(3, 6, 6), b=(3, 6), head=(6, 4))


@truth(
    groups=(
        group("w[:,0]", "head"),
        group("w[:,1]", "head"),
        group("w[:,2]", "head"),
    ),
    stacks=dict(w=1),
)
def python_index():
    """w[:, 0], w[:, 1], w[:, 2] are three layers: w_0 + w_1 + w_2 + head = 0."""
    x = data(8, 6)

    def function(p):
        h = x
        for i in range(3):
            h = jax.nn.leaky_relu(h @ p["w"][:, i])
        return h @ p["head"]

    return function, draw(116, w=(6, 3, 6), head=(6, 4))


@truth(
    groups=tuple(group(f"w1[{m}] b1[{m}]", f"w2[:,{m}]") for m in range(4)),
    stacks=dict(w1=0, b1=0, w2=1, b2=0),
)
def ensemble():
    """Four networks of their own, with one output each: four times w1 = b1 = -w2."""
    x = data(8, 5)

    def function(p):
        def member(w1, b1, w2, b2):
            return jax.nn.relu(x @ w1 + b1) @ w2 + b2

        axes = (0, 0, 1, 0)
        return jax.vmap(member, axes)(p["w1"], p["b1"], p["w2"], p["b2"])

    return function, draw(117, w1=(4, 5, 7), b1=(4, 7), w2=(7, 4, 3), b2=(4, 3))


@truth(
    groups=(group("trunk", "w[0] w[1] w[2] w[3]"),),
    stacks=dict(w=0),
    optional="w",
)
def shared_trunk():
    """Four heads read one trunk: w_m = -trunk for each m."""
    x = data(8, 5)

    def function(p):
        h = jax.nn.relu(x @ p["trunk"])
        return jax.vmap(lambda w: h @ w)(p["w"])

    return function, draw(118, trunk=(5, 7), w=(4, 7, 3))


@truth(
    groups=tuple(group(f"w1[{m}] b1[{m}]", f"w2[{m}]") for m in range(4)),
    stacks=dict(w1=0, b1=0, w2=0, b2=0),
)
def mean_of_ensemble():
    """The mean sees each member: the groups of `ensemble`."""
    x = data(8, 5)

    def function(p):
        def member(q):
            return jax.nn.relu(x @ q["w1"] + q["b1"]) @ q["w2"] + q["b2"]

        return jax.vmap(member)(p).mean(0)

    return function, draw(119, w1=(4, 5, 7), b1=(4, 7), w2=(4, 7, 3), b2=(4, 3))


@truth(
    dead="qkv_b[1]",
    groups=(
        group("E P o ob down db"),
        group("qkv[:,0] qkv_b[0]", "qkv[:,1]"),
        group("qkv[:,2] qkv_b[2]", "o"),
        group("g1 s1", "qkv[:,0] qkv[:,1] qkv[:,2]"),
        group("g2 s2", "up"),
        group("gf sf", "head"),
    ),
    stacks=dict(qkv=1, qkv_b=0),
)
def fused_qkv():
    """A pre-LN block with (d, 3, heads, depth) for query, key and value."""
    shapes = dict(qkv=(8, 3, 2, 4), qkv_b=(3, 2, 4), o=(2, 4, 8), ob=(8,))

    def function(p):
        x = embed(p)
        h = layer_norm(x, p["g1"], p["s1"])
        query, key, value = (
            jnp.einsum("btd,dchk->cbthk", h, p["qkv"]) + (p["qkv_b"][:, None, None])
        )
        x = x + merge(attend(query, key, value), p["o"], p["ob"])
        x = x + mlp(p, layer_norm(x, p["g2"], p["s2"]), jax.nn.gelu)
        return read_out(p, x)

    return function, draw(120, **EMBEDDING, **shapes, **MLP, **NORMS, **HEAD)


@truth(
    dead=all_of("blocks/kb"),
    groups=(
        group("E P " + all_of("blocks/o blocks/ob blocks/down blocks/db")),
        *every("blocks/q blocks/qb", "blocks/k"),
        *every("blocks/v blocks/vb", "blocks/o"),
        *every("blocks/g1 blocks/s1", "blocks/q blocks/k blocks/v"),
        *every("blocks/g2 blocks/s2", "blocks/up"),
        group("gf sf", "head"),
    ),
    stacks={f"blocks/{name}": 0 for name in BLOCK},
)
def scan_transformer():
    """`pre_ln` under scan and rematerialization: the same groups, block by block."""
    blocks = {name: (3, *shape) for name, shape in BLOCK.items()}

    def function(p):
        def body(x, block):
            return pre_norm(block, x), None

        return read_out(p, lax.scan(jax.checkpoint(body), embed(p), p["blocks"])[0])

    return function, draw(121, **EMBEDDING, blocks=blocks, **HEAD)
