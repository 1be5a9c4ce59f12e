"""Roles by names, module types and the bias of the module: a small tree per case.

K kernel, E embedding, B bias, N norm scale, O other. A "?" follows a role that is not
sure; ``describe`` marks it. Whole models are in ``model_zoo``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import model_zoo
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
        "B B B B B B B B B B B? B",  # rel_pos_bias may be a table
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
    "scales of norms, stacked": (
        {
            "RMSNorm_0": {"g": m},
            "bn": {"gamma": m, "beta": m},
            "emb_norm_scale": m,  # the scale of an embedding alone may be a number
            "ln_f": {"scale": m},
        },
        "N B N N N",
    ),
    "not surely of a norm": ({"w": m, "b": m}, "B? N?"),
    "parts of layers have matrices": (
        {"gate": {"weight": v}, "out": {"w": m}, "key": {"weight": A(1, 1, 4)}},
        "K? K? K",
    ),
    "a kernel of one axis is a scale in a norm": (
        {
            name: {"kernel": v}
            for name in (
                "LayerNorm",
                "RMSNorm_0",
                "attention_norm",
                "bn",
                "conv_bn",
                "ffn_norm",
                "foo_norm",
                "input_layernorm",
                "layernorm",
                "ln_f",
                "norm",
                "rms_norm",
            )
        },
        " ".join("N" * 12),
    ),
    "and a guess in a wrapper or a layer": (
        {
            name: {own: v}
            for name, own in (
                ("ada_norm", "kernel"),
                ("attention", "wq"),
                ("conv", "kernel"),
                ("dense", "w"),
                ("vec_dense", "w"),
                ("weight_norm", "kernel"),
                ("x", "kernel"),
                ("x_2", "w"),
                ("x_3", "recurrent_kernel"),
            )
        },
        "N? K? K? K? K? N? K? N? K?",
    ),
    "also without a module or with a bias": (
        {"kernel": v, "norm": {"kernel": v, "bias": v}, "x": {"kernel": v, "bias": v}},
        "K? B N B N",
    ),
    "a block may be named as its norm": ({"conv_bn": {"kernel": A(3, 3, 4, 4)}}, "K?"),
    "tables of biases are not surely biases": (
        {
            name: A(8, 49)
            for name in (
                "attention_biases",
                "attn_bias",
                "bias_pos",
                "pair_biases",
                "pos_bias",
                "pos_bias_u",
                "position_bias",
                "rel_bias",
                "relative_attention_bias",
                "relative_position_bias",
            )
        }
        | {"rel_pos": {"bias": A(8, 49)}},
        " ".join(["B?"] * 11),
    ),
    "biases that are not": (
        {
            "attention_biases": v,
            "b_pos": {"biases": m},
            "linear_pos": {"bias": m},
            "pos_bias": v,
            "r_w_bias": m,
        },
        "B B? B B B",
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


# --- kinds of parameters that names or axes mislead about ---------------------------
# A leaf is its true role and its shape: K(8, 6). V is an "other" that must not decay,
# such as a vector, and M one that decays, such as a matrix. A role that is sure must be
# the true one; the decision must be that of the true role, except for U: a matrix whose
# name does not say what it is. There only sureness is tested.


class Truth(NamedTuple):
    code: str
    shape: tuple[int, ...]


def of(code):
    return lambda *shape: Truth(code, shape)


K, E, B, N, V, M, U = map(of, "KEBNVMU")
DECAYS = {"K": 1.0, "E": 1.0, "B": 0.0, "N": 0.0, "V": 0.0, "M": 1.0}


def same(leaf, names):
    return {name: leaf for name in names.split()}


def each(names, **fields):
    """A module of each name with these fields."""
    return {name: fields for name in names.split()}


def typed(names, **fields):
    """A module of each type with these fields."""
    return {name.lower(): module(name, **fields) for name in names.split()}


WRAPPERS = (
    "WeightNormalization WeightNorm SpectralNorm SpectralNormalization AdaNorm AdaIN "
    "AdaLayerNorm AdaptiveGroupNorm ConditionalLayerNorm CondInstanceNorm SPADENorm "
    "FiLMNorm StyleNorm ModulatedNorm NormLinear PreNormAttention"
)
KINDS = {
    "types of norms that hold a matrix": typed(WRAPPERS, weight=K(8, 6)),
    "the same, with a bias": typed(
        WRAPPERS + " SigmaNorm RMSNorm LayerNorm", weight=K(8, 6), bias=B(8)
    ),
    "with a scale for each output": typed(
        WRAPPERS, weight=K(8, 6), scale=N(8, 1), bias=B(8)
    ),
    "names of norms that hold a matrix": each(
        "weight_norm spectral_norm ada_norm cond_layernorm adaln_modulation film_norm "
        "adaLN weightnorm norm_linear norm_mlp pre_norm_mlp style_bn modulated_ln",
        weight=K(8, 6),
    ),
    "unknown norms": each("sigma_norm foo_norm lipschitznorm", weight=U(8, 6)),
    "kernels of norms": each(
        "attention_norm ffn_norm ln_f rms_norm layernorm bn norm input_layernorm "
        "RMSNorm_0 q_norm",
        kernel=N(8),
    ),
    "weights that are vectors": each("x vector", w=V(8)),
    "plain norms": typed(
        "LlamaRMSNorm T5LayerNorm BatchNorm2d SyncBatchNorm GroupNorm32 FusedRMSNorm",
        weight=N(8),
    ),
    "vectors under the name of a table": each(
        "ln_emb norm_emb layer_norm_embedding time_embed rel_pos pos_embed patch_embed "
        "wte position label_emb",
        weight=V(8),
    ),
    "leaves with the name of a table": same(
        V(8), "ln_emb time_embed rel_pos pos_embed masked_spec_embed pos wpe label_emb"
    ),
    "the same with unit axes, under the name of a table": {
        **each("time_embed rel_pos wte", weight=U(1, 1, 8)),
        **same(U(1, 1, 8), "pos_emb time_emb wpe"),
    },
    "norms or embeddings": each("ln_emb norm_emb norm_embedding", weight=U(9, 8)),
    "biases or layers": each("attn_bias pair_bias mlp_bias bias", weight=U(9, 8)),
    "parts of unknown layers": each("time_mix_k mix_q foo_v", weight=U(9, 8))
    | {"attention": same(U(1, 1, 8), "x_w mix_w")},
    "layers under the name of a table": each(
        "linear_pos conv_pos patch_embed time_embed timestep_embedding embed_out "
        "proj_embed",
        weight=K(8, 6),
    ),
    "state space matrices": {
        "s5": same(M(8, 6, 2), "B C") | {"D": V(8)} | same(V(8), "Lambda_re log_step"),
        "s5_ri": same(M(8, 6), "B_re B_im C_re C_im") | {"Lambda_im": V(8), "D": V(8)},
        "s4d": {"log_dt": V(8), "A_imag": M(8, 6), "log_A_real": M(8, 6), "D": V(8)},
        "mamba": {"A_log": M(8, 6), "D": V(8), "dt_bias": B(8)},
        "kalman": same(M(8, 6), "F B H Q"),
        "linear_system": same(M(6, 6), "A B C D"),
        "bilinear": {"B": M(3, 4, 5)},
        "projections": {"ssm_B": M(8, 6), "ssm_C": M(8, 6)},
        "selective": {"W_B": M(8, 6), "W_C": M(8, 6)},
        "formula": {"a": M(8, 6), "b": M(6, 8)},
    },
    "letters that are biases": {
        "numpy": {"W": K(8, 6), "B": B(6)},
        "haiku": {"w": K(8, 6), "b": B(6)},
        "gru": {"w_i": K(6, 12), "w_h": K(4, 12), "b": B(12), "c": V(12)},
        "transformer_lens": {"W_Q": K(2, 8, 4), "b_Q": B(2, 4)},
        "both": {"w": K(8, 6), "b": B(6), "c": V(6)},
    },
    "low-rank factors": same(
        M(8, 6),
        "lora_a lora_b lora_A lora_B kernel_lora_a kernel_lora_b w_lora_b qlora_b "
        "weight_lora_B q_proj_lora_b lora_embedding_B LoRA_B vera_B vera_lambda_b "
        "hada_w1_b lokr_w2_b dora_b",
    )
    | {
        "lora_B": {"kernel": M(8, 6)},
        "lora_up": {"weight": M(8, 6)},
        "delta": {"u_a": M(8, 6), "u_b": M(6, 8)},
    },
    "bias beats position": same(
        B(4, 8),
        "pos_bias_u pos_bias_v r_w_bias r_r_bias rel_pos_bias position_bias bias_pos "
        "attention_biases relative_position_bias bias_k bias_v e_score_correction_bias",
    ),
    "tables of biases": same(
        E(9, 4), "relative_position_bias_table rel_pos_bias_table bias_table"
    ),
    "shifts with many axes": same(
        U(3, 4, 5), "beta offset shift film_beta shift_2 offset_map beta_1 b"
    )
    | {"film": {"gamma": U(5, 8), "beta": U(5, 8)}},
    "shifts of norms": {
        "bn": {"gamma": N(8), "beta": B(8)},
        "actnorm": {"scale": N(1, 8, 1, 1), "shift": B(1, 8, 1, 1)},
        "grn": {"gamma": N(1, 1, 1, 8), "beta": B(1, 1, 1, 8)},
        "group_norm": {"scale": N(8), "offset": B(8)},
        "norm": {"a_2": V(8), "b_2": B(8)},
    },
    "scales that are matrices": same(
        U(8, 6), "scale gamma bias_scale scale_proj layer_scale dt_scale weight_scale"
    ),
    "gates": {
        "mlp": same(K(8, 6), "w_g w_q"),
        "lstm": {"w_g": K(8, 8), "b_g": B(8)},
        "bare": {"g": K(8, 6)},
        "attn": same(K(8, 6), "g_proj"),
    },
    "scales of weights": {
        "torch": {"weight_g": N(8, 1), "weight_v": K(8, 6), "bias": B(8)},
        "conv": {"weight_g": N(8, 1, 1), "weight_v": K(8, 6, 3), "bias": B(8)},
        "gpt": {"ln1_g": N(8), "ln1_b": B(8), "g": N(8)},
    },
    "scales and shifts in one table": same(
        M(6, 8), "scale_shift_table scale_shift shift_scale scale_and_shift"
    ),
    "vectors with unit axes": same(
        U(1, 1, 8),
        "time_mix_k time_mix_r time_maa_x time_decay time_first time_faaaa k_k k_a x_r "
        "x_w w0 v0 a0 r_k mix_k q_mix gate",
    ),
    "matrices named as a part": same(
        U(6, 8),
        "gate attn_gate attn_sink attn_temperature conv_alpha proj_temperature q key "
        "kernel_lengthscale lambda_q1 slopes alpha",
    ),
    "temperatures": same(V(), "logit_scale embed_scale temperature beta gate"),
    "tokens": {
        "vit": same(M(1, 1, 8), "cls_token dist_token mask_token reg_token cls probe")
        | same(M(1, 4, 8), "register_tokens registers query_tokens"),
        "clip": same(V(8), "class_embedding mask_embedding pad_token"),
    },
}
SHAPES = [(3,), (1,), (3, 2), (2, 1, 3)]


def is_truth(x):
    return isinstance(x, Truth)


def judged(tree):
    """Each leaf with its true role, the row that describes it, and whether it is wrong.

    Wrong: a role that is sure and not the true one.
    """
    shapes = jax.tree.map(lambda leaf: A(*leaf.shape), tree, is_leaf=is_truth)
    truths = jax.tree.leaves(tree, is_leaf=is_truth)
    rows = masks.describe(masks.no_bias_or_norm, shapes).rows
    for truth, row in zip(truths, rows, strict=True):
        true_role = LETTERS.get(truth.code, "other")
        yield truth, row, row.sure and row.role != true_role


def stacked(tree, sizes, axis=0):
    def insert(leaf):
        at = len(leaf.shape) if axis < 0 else min(axis, len(leaf.shape))
        return leaf._replace(shape=leaf.shape[:at] + sizes + leaf.shape[at:])

    return jax.tree.map(insert, tree, is_leaf=is_truth)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sure_role_is_right(kind):
    for truth, row, is_wrong in judged(KINDS[kind]):
        assert not is_wrong, row
        assert row.multiplier == DECAYS.get(truth.code, row.multiplier), row


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_a_sure_role_is_right_if_nothing_shows_the_stack(kind, sizes):
    for _, row, is_wrong in judged(stacked(KINDS[kind], sizes)):
        # A stack of vectors below the name of a table looks like the table.
        is_table = row.role == "embedding" and "name of a table" in kind
        assert is_table or not is_wrong, row


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("norm", [{"scale": N(8)}, {"weight": N(8), "bias": B(8)}])
def test_a_norm_in_the_layer_shows_the_stack(kind, sizes, norm):
    layer = {"input_layernorm": norm, "inner": {"mixer": KINDS[kind]}}
    outside = {"embed": {"embedding": E(9, 8)}, "final_norm": {"scale": N(8)}}
    for tree in (layer, {"deep": [layer]}):
        one = judged({"layers": tree} | outside)
        many = judged({"layers": stacked(tree, sizes)} | outside)
        for (_, before, _), (_, after, is_wrong) in zip(one, many, strict=True):
            assert not is_wrong, after
            assert after.multiplier == before.multiplier, (before, after)
            assert (after.role, after.sure) == (before.role, before.sure)


STACKABLE = {
    "norm": {"scale": N(8)},
    "attn": {"q_proj": {"kernel": K(8, 2, 4), "bias": B(2, 4)}, "slopes": V(2)},
    "rg_lru": {"a_param": V(8), "input_gate": {"w": K(2, 4, 4), "b": B(2, 4)}},
    "mamba": {"A_log": M(16, 4), "D": V(16), "dt_bias": B(16)},
    "ls": V(8),
    "layer_scale": {"lambda1": V(8)},
    "layer_scale_2": N(8),
    "temperature": V(),
    "skip": {"scale": V()},
    "gate": V(8),
    "prelu": {"negative_slope": V()},
    "film": {"scale": N(8), "shift": B(8)},
    "experts": {"w1": K(4, 8, 6), "b1": B(4, 6), "scale": N(6)},
}


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("sizes", SHAPES)
def test_stacking_a_layer_does_not_change_a_decision(sizes, axis):
    layer = dict(STACKABLE)
    if axis == 1:  # of numbers there is no axis 1
        del layer["temperature"], layer["skip"], layer["prelu"]
    for truth, row, is_wrong in judged({"layers": stacked(layer, sizes, axis)}):
        assert not is_wrong, row
        assert row.multiplier == DECAYS[truth.code], row


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("kind", ["state space matrices", "kernels of norms"])
def test_a_stack_on_the_last_axis_decides_as_one_layer(kind, sizes):
    layer = {
        "norm": {"scale": N(8)},
        "mlp": {"wi": {"kernel": K(8, 5)}, "wo": {"kernel": K(5, 8), "bias": B(8)}},
        "attn": {"lambda_q1": V(4), "slopes": V(2), "D": V(8), "temperature": V()},
        "mixer": KINDS[kind],
    }
    outside = {"embed": {"embedding": E(9, 8)}, "final_norm": {"scale": N(8)}}
    one = judged({"layers": layer} | outside)
    many = judged({"layers": stacked(layer, sizes, -1)} | outside)
    for (_, before, _), (_, after, is_wrong) in zip(one, many, strict=True):
        assert not is_wrong, after
        assert (after.role, after.multiplier) == (before.role, before.multiplier)


def test_features_are_not_a_stack_on_the_last_axis():
    """Norms of shape (1, 1, d), and all parameters with d outputs."""
    block = {"norm": {"scale": N(1, 1, 8)}, "mix": M(5, 8), "latents": M(8, 8)}
    for truth, row, is_wrong in judged(block):
        assert not is_wrong
        assert row.multiplier == DECAYS[truth.code], row


def test_stacks_in_a_stack():
    """An ensemble of models, each with stacked layers, each with stacked experts."""
    expert = {"w1": K(8, 6), "b1": B(6), "alpha": V(6), "norm": {"scale": N(6)}}
    layer = {**STACKABLE, "experts": stacked(expert, (4,))}
    model = {"layers": stacked(layer, (3,)), "embed": E(9, 8), "norm": N(8), "x": V(8)}
    for tree in (model, stacked(model, (5,)), stacked(model, (5, 2))):
        for truth, row, is_wrong in judged(tree):
            assert not is_wrong, row
            assert row.multiplier == DECAYS[truth.code], row


def test_a_matrix_next_to_stacked_layers_is_not_stacked():
    layers = stacked({"norm": {"scale": N(8)}, "dense": {"kernel": K(8, 8)}}, (6,))
    for rest in (
        {"latents": M(16, 8)},
        {"latents": M(16, 8), "head": {"kernel": K(8, 3)}},
    ):
        for vectors in ({"z": V(6)}, {"z": V(8)}):
            for truth, row, is_wrong in judged({"layers": layers, **vectors, **rest}):
                assert not is_wrong
                assert row.multiplier == DECAYS[truth.code], row


ROW = A(1, 1, 8)
GROUPS = {
    "position": {
        **same(
            A(1, 5, 8),
            "temporal_embed temporal_embedding spatial_embed row_embed col_embed",
        ),
        **same(A(9, 4), "bias_table attention_bias_table rel_pos_bias_table"),
        **each("row_embed column_embeddings", weight=A(9, 4)),
    },
    "token": {
        **each(
            "iou_token obj_score_token cls_token no_mask_embed not_a_point_embed "
            "no_mem_embed no_obj_embed",
            weight=A(1, 8),
        ),
        **each("mask_tokens register_tokens detection_tokens", weight=A(4, 8)),
        **same(ROW, "no_mask_token no_mem_embed not_a_point_embed"),
    },
    "ssm": {
        **same(ROW, "x_r x_k x_v x_a x_w k_k k_a r_k"),
        "attention": same(ROW, "x_r x_k k_k") | {"r_k": A(2, 4)},
        "mega": same(A(8, 2, 1), "alpha delta omega"),
        **each("ema MultiHeadEMA_0", omega=A(8, 2), alpha=A(8, 2, 1)),
    },
    "none": {
        "bert": {"cls": {"weight": A(8, 6)}},
        **each("vocab_token mask_token_proj time_embed frame_embed", weight=A(9, 8)),
        **each("mask_token cls_token row_embed temporal_embed x_k", kernel=A(9, 8)),
        **each("temporal_conv row_attn", weight=A(9, 8)),
        **same(A(8, 6), "x_r k_k alpha omega row_gate temporal_alpha"),
        "film": same(A(8, 6), "alpha beta omega"),
        "schema": {"delta": A(8, 6)},
        "prelu": {"alpha": A(8)},
        **same(ROW, "w0 a0 v0 no_obj_ptr"),
    },
}


@pytest.mark.parametrize("group", GROUPS)
def test_the_group_of_a_parameter(group):
    rows = masks.describe(masks.no_bias_norm_or_token, GROUPS[group]).rows
    assert len(rows) > 8
    for row in rows:
        is_grouped = row.rule in ("role position", "role token", "role ssm")
        assert row.rule == f"role {group}" if group != "none" else not is_grouped, row
        assert not is_grouped or row.multiplier == 0.0


@pytest.mark.needs_flax
@pytest.mark.relaxed("flax")
def test_a_block_under_nnx_vmap_decides_as_one_block():
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.RMSNorm(8, rngs=rngs)
            self.lin = nnx.Linear(8, 8, rngs=rngs)
            self.a_param = nnx.Param(jnp.ones(8))
            self.ls = nnx.Param(jnp.full((8,), 1e-4))

    def decisions(model):
        rows = masks.describe(masks.no_bias_or_norm, nnx.state(model, nnx.Param)).rows
        return {row.path: row.multiplier for row in rows}

    def make(key):
        return Block(nnx.Rngs(key))

    keys = jax.random.split(jax.random.key(0), (3, 2))
    one = decisions(make(keys[0, 0]))
    assert one == decisions(nnx.vmap(make)(keys[0]))
    assert one == decisions(nnx.vmap(nnx.vmap(make))(keys))


# --- stacked models -----------------------------------------------------------------


@pytest.mark.needs_flax
@pytest.mark.relaxed("flax, equinox: their initialisers")
@pytest.mark.parametrize("name", model_zoo.MODELS)
def test_no_decision_changes_if_a_whole_model_is_stacked(name):
    if name.startswith("equinox"):
        pytest.importorskip("equinox")
    zoo = model_zoo.MODELS[name]()
    before = masks.describe(masks.no_bias_or_norm, zoo.params).rows
    for sizes in SHAPES:
        many = jax.tree.map(lambda leaf: A(*sizes, *leaf.shape), zoo.params)  # noqa: B023
        after = masks.describe(masks.no_bias_or_norm, many).rows
        for one, row in zip(before, after, strict=True):
            decision = one.role, one.sure, one.multiplier
            assert decision == (row.role, row.sure, row.multiplier), row


@pytest.mark.needs_flax
@pytest.mark.relaxed("flax, equinox: their initialisers")
@pytest.mark.parametrize("name", model_zoo.MODELS)
def test_a_sure_role_is_right_if_modules_are_renamed(name):
    """The modules get a name that says nothing, or a misleading one."""
    if name.startswith("equinox"):
        pytest.importorskip("equinox")
    zoo = model_zoo.MODELS[name]()
    leaves = model_zoo.paths(zoo.params)
    for new in ("x", "weight_norm", "sigma_norm", "norm_mlp", "block"):
        renamed, true_roles, numbers = {}, {}, {}
        for path, leaf in leaves.items():
            place, _, own = path.rpartition("/")
            module = f"{new}_{numbers.setdefault(place, len(numbers))}"
            renamed.setdefault(module, {})[own] = leaf
            true_roles[f"{module}/{own}"] = zoo.roles[path]
        for row in masks.describe(masks.no_bias_or_norm, renamed).rows:
            assert not row.sure or row.role == true_roles[row.path], row
