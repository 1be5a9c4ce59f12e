"""Roles by names, module types and the bias of the module: a small tree per case.

K kernel, E embedding, B bias, N norm scale, O other. A "?" follows a role that is not
sure; ``describe`` marks it. Whole models are in ``model_zoo``.
"""

import jax
import jax.numpy as jnp
import pytest

from decayax import masks


def A(*shape):  # noqa: N802
    return jax.ShapeDtypeStruct(shape, jnp.float32)


LETTERS = {
    "K": "kernel",
    "E": "embedding",
    "B": "bias",
    "N": "norm_scale",
    "O": "other",
}
scalar, v, m = A(), A(4), A(4, 4)
CASES = {
    "a vector may be a kernel": (
        {"linear": {"w": v, "b": scalar}, "head": {"kernel": v, "bias": scalar}},
        "B K B K",
    ),
    "also without a module": ({"w": v, "b": scalar}, "B K"),
    "or the weight of a dense layer": ({"dense": {"weight": v}}, "K"),
    "a weight of the shape of its bias is a norm's": (
        {"post": {"weight": v, "bias": v}},
        "B N",
    ),
    "stacked too": ({"post": {"weight": A(3, 4), "bias": A(3, 4)}}, "B N"),
    "one with more axes is a layer's": ({"post": {"weight": m, "bias": v}}, "B K"),
    "with any name of the module": (
        {"ln_like": {"w": A(2, 4, 4), "b": A(2, 4)}, "wpe": {"w": m, "b": v}},
        "B K B K",
    ),
    "no bias, no name: the axes": ({"x": {"weight": v}, "y": {"w": m}}, "N? K?"),
    "a kernel is a kernel": (
        {"ada_norm": {"kernel": m}, "norm_conv": {"kernel": A(3, 3, 4, 4)}},
        "K K",
    ),
    "the last known word decides": (
        {"attn_norm": {"weight": v}, "q_norm": {"w": v}, "conv_bn": {"weight": v}},
        "N N N",
    ),
    "a part's word does not outweigh the norm's": (
        {"ln_f": {"w": v}, "norm_out": {"w": v}, "norm_q": {"w": m}},
        "N N N",
    ),
    "the norm of a layer and the layer of a norm": (
        {"ln_mlp": {"weight": v}, "norm_proj": {"weight": m}},
        "N? K?",
    ),
    "names of norms, stacked": (
        {
            name: {"weight": m}
            for name in (
                "LayerNormalization",
                "RMSNorm_0",
                "bn1",
                "gn",
                "input_layernorm",
                "norms",
                "normalise",
                "postLN",
                "rms",
                "subln",
            )
        },
        "N N N N N N N N N N",
    ),
    "norms in a list": ({"norms": [{"weight": m}, {"weight": m}]}, "N N"),
    "names of layers": (
        {
            name: {"weight": m}
            for name in (
                "Conv2d_0",
                "LSTMCell",
                "classifier",
                "convolution",
                "projection",
                "c_attn",
                "conv1",
                "dwconv",
                "experts",
                "fc1",
                "ffn",
                "gru",
                "head",
                "lstm",
                "mlp",
                "q_proj",
                "query",
                "rnn",
                "selfAttention",
                "unembed",
                "up",
                "wi",
            )
        },
        " ".join("K" * 22),
    ),
    "names of tables": (
        {
            name: {"weight": m}
            for name in (
                "embedder",
                "position",
                "position_table",
                "positions",
                "vocab_table",
                "positional",
                "relative_attention_bias",
                "shared",
                "tok_emb",
                "wpe",
                "wte",
            )
        },
        " ".join("E" * 11),
    ),
    "a module for the scale": ({"pre_norm/scale": {"weights": m}}, "N"),
    "a layer with a table's word": (
        {"embed_proj": {"weight": m}, "patch_embed": {"w": A(3, 3, 4, 4), "b": v}},
        "K B K",
    ),
    "leaves that are norms": (
        {
            "attention_norm": m,
            "gamma_pre_attn": m,
            "ln1_scale": m,
            "ln_1": m,
            "ls1": {"gamma": v},
            "norm": v,
            "norm_weight": v,
            "weight_g": A(4, 1),
        },
        " ".join("N" * 8),
    ),
    "leaves that are layers": (
        {
            "W_Q": m,
            "attn_vec_einsum": m,
            "in_proj_weight": m,
            "kernel_1": m,
            "linear": m,
            "recurrent_kernel": m,
            "w1": m,
            "weight_hh_l0": m,
            "wo": m,
        },
        "K K K K K K K? K K?",
    ),
    "leaves that are tables": (
        {
            name: m
            for name in (
                "W_pos",
                "codebook",
                "embeddings",
                "label_emb",
                "pe",
                "pos_enc",
                "position_bias_table",
                "wte",
            )
        },
        " ".join("E" * 8),
    ),
    "a table has rows": (
        {"cls_embedding": A(1, 4), "emb_weight": v, "mask_embedding": v},
        "O? O? O?",
    ),
    "a layer without a bias has a matrix": ({"head": v, "q_proj": m}, "O? K"),
    "one number is not a norm scale": (
        {"embed_scale": scalar, "logit_scale": A()},
        "O? O?",
    ),
    "leaves that are biases": (
        {
            name: m
            for name in (
                "b",
                "b0",
                "b_Q",
                "beta",
                "bias_hh",
                "biases",
                "bq",
                "embedding_bias",
                "in_proj_bias",
                "offset",
                "rel_pos_bias",
                "shift",
            )
        },
        " ".join("B" * 12),
    ),
    "letters of a formula": (
        {"ssm": {"A": m, "B": m, "C": m}, "lora": {"a": m, "b": m}},
        "O? O? O? O? O?",
    ),
    "low-rank factors": ({"lora_a": m, "lora_b": m}, "O? O?"),
    "a gain and a matrix": ({"ln": {"g": v, "b": v}}, "B N"),
    "lists of pairs": ([(m, v), (m, v)], "O? O? O? O?"),
    "lists of arrays": ({"biases": [v, v], "weights": [m, m]}, "B B K K"),
    "lists of arrays of other shapes": (
        {"biases": [A(4), A(5)], "weights": [A(4), A(4, 5)]},
        "B B N K",
    ),
    "layers by number": ({"0": {"w": m, "b": v}, "1": {"w": m, "b": v}}, "B K B K"),
    "weights by number": ({"b1": A(2), "w1": A(4, 2), "b2": v, "w2": v}, "B B K N"),
    "keys that are paths": (
        {
            "bert.embeddings.LayerNorm.bias": v,
            "bert.embeddings.LayerNorm.weight": v,
            "bert.embeddings.word.weight": m,
            "bert.h.0.attn.c_attn.bias": v,
            "bert.h.0.attn.c_attn.weight": m,
            "encoder/ln/weight": m,
            "mlp/~/linear_0": {"w": m, "b": v},
            "patch_embed.proj.bias": v,
            "patch_embed.proj.weight": m,
            "wte/weight": m,
        },
        "B N K? B K N B K B K E",
    ),
    "keys that are tuples": (
        {("ln", "weight"): m, ("attn", "bias"): m, ("embed", "embedding"): m},
        "B E N",
    ),
    "upper and lower case": (
        {"Dense": {"W": m}, "Bias": v, "LN": {"Weight": m}},
        "B K N",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_roles(case):
    tree, expected = CASES[case]
    rows = masks.describe(masks.no_bias_or_norm, tree).rows
    found = [f"{row.role}{'' if row.sure else ' ?'}" for row in rows]
    by_hand = [
        f"{LETTERS[code[0]]}{code[1:].replace('?', ' ?')}" for code in expected.split()
    ]
    assert dict(zip([row.path for row in rows], found, strict=True)) == dict(
        zip([row.path for row in rows], by_hand, strict=True)
    )


# --- modules ------------------------------------------------------------------------


def module(name, **fields):
    """A class with named fields, as Equinox registers them."""
    cls = type(name, (), {})
    self = cls()
    for key, value in fields.items():
        setattr(self, key, value)
    jax.tree_util.register_pytree_with_keys(
        cls,
        lambda x: (
            [(jax.tree_util.GetAttrKey(k), getattr(x, k)) for k in fields],
            None,
        ),
        lambda _, children: module(name, **dict(zip(fields, children, strict=True))),
    )
    return self


OWNED = {
    "norms with a layer's word": [
        ("AttentionNorm", {"weight": m}, "N"),
        ("ConvLayerNorm", {"weight": m}, "N"),
        ("LinearNorm", {"weight": m}, "N"),
        ("EmbeddingLayerNorm", {"weight": m}, "N"),
        ("RMS", {"weight": m}, "N"),
        ("GroupNorm", {"weight": m, "bias": m}, "N B"),
    ],
    "layers": [
        ("Linear", {"weight": v}, "K"),
        ("Conv2d", {"weight": A(4, 4, 1, 1), "bias": A(4, 1, 1)}, "K B"),
        ("GRUCell", {"weight_ih": m, "bias_n": v}, "K B"),
        ("MultiheadAttention", {"w": m}, "K"),
        ("Embedding", {"weight": m}, "E"),
    ],
    "fields of their own": [
        ("ConvBlock", {"norm_weight": v, "ln_weight": v, "weight": m}, "N N K"),
        ("Thing", {"weight": v, "bias": v}, "N B"),
        ("Thing", {"weight": m}, "K?"),
    ],
}


@pytest.mark.parametrize("case", OWNED)
def test_roles_by_the_type_of_the_module(case):
    for name, fields, expected in OWNED[case]:
        # The name of the enclosing dict does not matter.
        tree = {"ln": module(name, **fields)}
        rows = masks.describe(masks.no_bias_or_norm, tree).rows
        by_field = {row.path.split("/")[-1]: row for row in rows}
        for field, code in zip(fields, expected.split(), strict=True):
            row = by_field[field]
            if name != "Thing":
                assert row.role == LETTERS[code[0]], (name, field)
                assert row.sure


def test_the_innermost_module_decides():
    inner = module("Linear", weight=m)
    outer = module("LayerNorm", inner=inner, blocks=[inner, {"a": {"weight": m}}])
    found = {r.path: r.role for r in masks.describe(masks.no_bias_or_norm, outer).rows}
    assert found == {
        "inner/weight": "kernel",
        "blocks/0/weight": "kernel",
        "blocks/1/a/weight": "kernel",  # in a dict: by names, then by the axes
    }


def test_a_named_tuple_is_not_a_module():
    import collections

    LayerNorm = collections.namedtuple("LayerNorm", ["weight"])
    rows = masks.describe(masks.no_bias_or_norm, {"dense": LayerNorm(m)}).rows
    assert [row.role for row in rows] == ["kernel"]


def test_decisions_do_not_change_under_vmap():
    """Another axis does not change a role that is sure."""
    for tree, _ in CASES.values():
        rows = masks.describe(masks.no_bias_or_norm, tree).rows
        stacked = jax.tree.map(lambda x: A(3, *x.shape), tree)
        more = masks.describe(masks.no_bias_or_norm, stacked).rows
        for one, many in zip(rows, more, strict=True):
            if one.sure and many.sure:
                assert one.role == many.role, one.path
