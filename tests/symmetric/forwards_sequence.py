"""Architectures for sequences; `forwards` explains the form."""

import jax
import jax.numpy as jnp

from symmetric.forwards import Architecture, GELU, IDS, leaves_of, norm, whole
from symmetric.model import data, group


PATCHES = data(8, 6, 5)
NO_BIAS_MLP = dict(up=("linear_no_bias", 8, 10), down=("linear_no_bias", 10, 8))
MLP = dict(up=("linear", 8, 10), down=("linear", 10, 8))


def pre_ln(m, ids):
    x = m.embed(ids) + m.position
    x = x + m.drop(m.attn(m.norm1(x)))
    x = x + m.drop(m.down(GELU(m.up(m.norm2(x)))))
    return m.head(m.norm3(x))


def post_ln(m, ids):
    x = m.embed(ids) + m.position
    x = m.norm1(x + m.attn(x))
    x = m.norm2(x + m.down(GELU(m.up(x))))
    return m.head(x)


def parallel_block(m, ids):
    x = m.embed(ids)
    h = m.norm1(x)
    x = x + m.attn(h) + m.down(GELU(m.up(h)))
    return m.head(m.norm3(x))


def tied_embeddings(m, ids):
    x = m.embed(ids) + m.position
    x = x + m.attn(m.norm1(x))
    x = x + m.down(jax.nn.relu(m.up(m.norm2(x))))
    return m.embed_attend(m.norm3(x))


def swiglu_block(m, x):
    x = m.embed(x)
    h = m.norm1(x)
    x = x + m.down(jax.nn.silu(m.gate(h)) * m.up(h))
    return m.head(m.norm3(x))


def vision_transformer(m, x):
    x = jnp.concatenate((jnp.broadcast_to(m.token, (8, 1, 8)), m.embed(x)), 1)
    x = x + m.position
    x = x + m.attn(m.norm1(x))
    x = x + m.down(GELU(m.up(m.norm2(x))))
    return m.head(m.norm3(x)[:, 0])


def mixer(m, x):
    x = m.embed(x)
    mixed = m.token_down(GELU(m.token_up(m.norm1(x).swapaxes(1, 2))))
    x = x + mixed.swapaxes(1, 2)
    x = x + m.down(GELU(m.up(m.norm2(x))))
    return m.head(m.norm3(x).mean(1))


def unrolled(m, carry, x):
    for t in range(3):
        carry, h = m.cell(carry, x[:, t])
    return m.head(h)


def lstm(m, x):
    zeros = jnp.zeros((8, 6), x.dtype)
    return unrolled(m, (zeros, zeros), x)


def gru(m, x):
    return unrolled(m, jnp.zeros((8, 6), x.dtype), x)


ATTENTION = leaves_of("attn/query attn/key attn/value", "kernel")
HEAD = group(norm("norm3"), "head/kernel")
PAIRS = (
    group(whole("attn/query"), "attn/key/kernel"),
    group(whole("attn/value"), "attn/out/kernel"),
)

ARCHITECTURES = [
    # Stream: all writers. q + k = -2 g1, v = -g1 - o; up = -g2; head = -g3.
    Architecture(
        "pre_ln",
        dict(
            embed=("embed", 11, 8),
            position=("param", 5, 8),
            norm1=("layer_norm", 8),
            attn=("attention", 8, 2),
            norm2=("layer_norm", 8),
            norm3=("layer_norm", 8),
            head=("linear", 8, 7),
            drop=("dropout", 0.1),
            **MLP,
        ),
        pre_ln,
        (IDS,),
        (
            group(f"embed/embedding position {whole('attn/out')} {whole('down')}"),
            *PAIRS,
            group(norm("norm1"), ATTENTION),
            group(norm("norm2"), "up/kernel"),
            HEAD,
        ),
        dead="attn/key/bias",
    ),
    # Each norm sets the degree of the stream. The next branch reads and writes it.
    Architecture(
        "post_ln",
        dict(
            embed=("embed", 11, 8),
            position=("param", 5, 8),
            attn=("attention_no_bias", 8, 2),
            norm1=("layer_norm", 8),
            norm2=("layer_norm", 8),
            head=("linear", 8, 7),
            **NO_BIAS_MLP,
        ),
        post_ln,
        (IDS,),
        (
            group("embed/embedding position", "attn/query/kernel attn/key/kernel"),
            group("attn/query/kernel", "attn/key/kernel"),
            group("attn/value/kernel", "attn/out/kernel"),
            group(norm("norm1") + " down/kernel", "up/kernel"),
            group(norm("norm2"), "head/kernel"),
        ),
    ),
    # One norm feeds q, k, v and up.
    Architecture(
        "parallel_block",
        dict(
            embed=("embed", 11, 8),
            norm1=("layer_norm", 8),
            attn=("attention", 8, 2),
            norm3=("layer_norm", 8),
            head=("linear_no_bias", 8, 7),
            **MLP,
        ),
        parallel_block,
        (IDS,),
        (
            group(f"embed/embedding {whole('attn/out')} {whole('down')}"),
            *PAIRS,
            group(norm("norm1"), ATTENTION + " up/kernel"),
            HEAD,
        ),
        dead="attn/key/bias",
    ),
    # The embedding writes to the stream and reads the last norm: g3 = -E.
    Architecture(
        "tied_embeddings",
        dict(
            embed=("embed", 11, 8),
            position=("param", 5, 8),
            norm1=("rms_norm", 8),
            attn=("attention_no_bias", 8, 2),
            norm2=("rms_norm", 8),
            norm3=("rms_norm", 8),
            **NO_BIAS_MLP,
        ),
        tied_embeddings,
        (IDS,),
        (
            group(
                "embed/embedding position attn/out/kernel down/kernel", "norm3/scale"
            ),
            group("attn/query/kernel", "attn/key/kernel"),
            group("attn/value/kernel", "attn/out/kernel"),
            group("norm1/scale", ATTENTION),
            group("norm2/scale", "up/kernel"),
            group("up/kernel", "down/kernel"),
        ),
    ),
    # SiLU: gate = -g1. g1 + up + down = t, the degree of the stream.
    Architecture(
        "swiglu_block",
        dict(
            embed=("linear", 5, 8),
            norm1=("rms_norm", 8),
            gate=("linear_no_bias", 8, 10),
            norm3=("rms_norm", 8),
            head=("linear", 8, 4),
            **NO_BIAS_MLP,
        ),
        swiglu_block,
        (PATCHES,),
        (
            group(whole("embed") + " down/kernel"),
            group("norm1/scale", "gate/kernel up/kernel"),
            group("up/kernel", "down/kernel"),
            group("norm3/scale", "head/kernel"),
        ),
    ),
    # The token and the positions are a part of the stream.
    Architecture(
        "vision_transformer",
        dict(
            token=("param", 8),
            embed=("linear", 5, 8),
            position=("param", 7, 8),
            norm1=("layer_norm", 8),
            attn=("attention", 8, 2),
            norm2=("layer_norm", 8),
            norm3=("layer_norm", 8),
            head=("linear", 8, 4),
            **MLP,
        ),
        vision_transformer,
        (PATCHES,),
        (
            group(f"token position {whole('embed attn/out down')}"),
            *PAIRS,
            group(norm("norm1"), ATTENTION),
            group(norm("norm2"), "up/kernel"),
            HEAD,
        ),
        dead="attn/key/bias",
    ),
    # token_down/bias adds one number to all channels of a token: LayerNorm removes it.
    Architecture(
        "mixer",
        dict(
            embed=("linear", 5, 8),
            norm1=("layer_norm", 8),
            token_up=("linear", 6, 9),
            token_down=("linear", 9, 6),
            norm2=("layer_norm", 8),
            norm3=("layer_norm", 8),
            head=("linear", 8, 4),
            **MLP,
        ),
        mixer,
        (PATCHES,),
        (
            group(f"{whole('embed down')} token_down/kernel"),
            group(norm("norm1"), "token_up/kernel"),
            group(norm("norm2"), "up/kernel"),
            HEAD,
        ),
        dead="token_down/bias",
    ),
    # Sigmoid and tanh read all gates: everything is seen.
    Architecture(
        "lstm", dict(cell=("lstm", 5, 6), head=("linear", 6, 4)), lstm, (PATCHES,)
    ),
    Architecture(
        "gru", dict(cell=("gru", 5, 6), head=("linear", 6, 4)), gru, (PATCHES,)
    ),
]
