"""Real models, and by hand the true role of each of their parameters.

The ground truth for masks by role. No role here follows from a rule over leaf names:
a table has the exact path of each leaf, and was written with the model's source at
hand. There are two kinds of models:

* built by a framework (Linen, NNX, Equinox): the table repeats the model's layout, one
  entry per layer, by what that layer *is* in the source just above it;
* written as shapes (Haiku, ports of torch): each leaf is declared with its role, as in
  ``"probe": O(1, 1, 4)``; the name next to it decides nothing.

No model is initialised: tracing gives paths and shapes. Building a model checks its
table: it must have exactly the paths of the leaves. For models of a framework, the
initial values must agree with it, too. This check sees no names: a leaf is all ones if
and only if it is a "norm_scale"; kernels and embeddings depend on the random key.

Conventions: LayerScale is "norm_scale" if named scale or gamma, "other" otherwise;
CLS tokens, pooling probes, temperatures, LoRA factors, PReLU slopes and the state space
parameters of Mamba are "other"; position tables are "embedding".

``python tests/model_zoo.py`` prints what the customary masks get wrong here.
"""

import functools
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal


class Zoo(NamedTuple):
    name: str
    params: Any
    roles: dict[str, str]  # '/'-joined readable path -> true role, for every leaf


class Leaf(NamedTuple):
    role: str
    shape: tuple[int, ...]


ROLES = ("kernel", "embedding", "bias", "norm_scale", "other")
KERNEL, EMBEDDING, BIAS, NORM, OTHER = ROLES


def _keys(path) -> tuple[str, ...]:
    """Key path as strings, without the ``.value`` of nnx variables and linen boxes."""
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey):
        path = path[:-1] if path[-1].name == "value" else path
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def paths(tree) -> dict[str, Any]:
    """Leaves by readable path, in the order of the leaves; None is no leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {"/".join(_keys(path)): leaf for path, leaf in leaves}
    assert len(named) == len(leaves), "two leaves share a path"
    return named


def _initialized(make: Callable[[jax.Array], Any], table: Any) -> tuple[Any, Any]:
    """Shapes of the params ``make(key)`` and their roles, checked by the values."""
    key = jax.random.key(0)
    params = jax.eval_shape(make, key)
    roles, values = paths(table), _constants(make, key)
    for path, value in zip(paths(params), values, strict=True):
        is_one = value is not None and bool(np.all(np.asarray(value) == 1))
        assert is_one == (roles[path] == NORM), (path, roles[path])
        assert value is None or roles[path] not in (KERNEL, EMBEDDING), path
    return params, table


def _constants(make: Callable[[jax.Array], Any], key: jax.Array) -> list[Any]:
    """The value of each leaf of ``make(key)``; None if it depends on the key.

    It computes the constants only. Compiling the initialisers would take seconds.
    """
    with jax.disable_jit():  # loops are unrolled and calls are inlined
        closed = jax.make_jaxpr(make)(key)
    makers = {var: eqn for eqn in closed.jaxpr.eqns for var in eqn.outvars}
    known = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    known |= dict.fromkeys(closed.jaxpr.invars)

    def value(var):
        if isinstance(var, Literal):
            return var.val
        if var not in known:
            eqn = makers[var]
            inputs = [value(x) for x in eqn.invars]
            outputs = [None] * len(eqn.outvars)
            if all(x is not None for x in inputs):
                outputs = eqn.primitive.bind(*inputs, **eqn.params)
            if not isinstance(outputs, list | tuple):
                outputs = [outputs]
            known.update(zip(eqn.outvars, outputs, strict=True))
        return known[var]

    return [value(var) for var in closed.jaxpr.outvars]


@functools.cache
def _built(build: Callable[[], tuple[Any, Any]]) -> tuple[Any, dict[str, str]]:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params, table = build()
    leaves, roles = paths(params), paths(table)
    assert roles.keys() == leaves.keys(), sorted(roles.keys() ^ leaves.keys())
    assert set(roles.values()) <= set(ROLES)
    return params, {path: roles[path] for path in leaves}


def _zoo(name: str, build: Callable[[], tuple[Any, Any]]) -> Zoo:
    """Built and checked once; containers are fresh, as nnx variables are mutable."""
    params, roles = _built(build)
    return Zoo(name, jax.tree.map(lambda leaf: leaf, params), dict(roles))


# --- Flax Linen -----------------------------------------------------------------------

DENSE = {"kernel": KERNEL, "bias": BIAS}  # also convolutions
LAYER_NORM = {"scale": NORM, "bias": BIAS}  # also group and batch norms
RMS_NORM = {"scale": NORM}
ATTENTION = dict.fromkeys(("query", "key", "value", "out"), DENSE)
QK_NORMS = {"query_ln": RMS_NORM, "key_ln": RMS_NORM}  # layer norms without bias


def _linen_class():
    import flax.linen as nn

    class Block(nn.Module):
        normalize_qk: bool = False

        @nn.compact
        def __call__(self, x, _=None):
            y = nn.LayerNorm()(x)
            attention = nn.MultiHeadDotProductAttention(
                2, normalize_qk=self.normalize_qk
            )
            x = x + attention(y)
            y = nn.gelu(nn.Dense(8)(nn.RMSNorm()(x)))
            return x + nn.Dense(4, name="mlp_out")(y), None

    class Transformer(nn.Module):
        scanned: bool = False

        @nn.compact
        def __call__(self, image):
            tokens = jnp.zeros((1, 3), int)
            normal = nn.initializers.normal(0.02)
            y = nn.Conv(4, (3, 3), strides=2)(image)
            y = nn.BatchNorm(use_running_average=True)(y)
            y = nn.GroupNorm(num_groups=2)(nn.Conv(4, (1, 1), name="embedding")(y))
            x = jnp.concatenate([nn.Embed(7, 4)(tokens), y.reshape(1, -1, 4)], axis=1)
            x = x + self.param("pos_embedding", normal, (1, x.shape[1], 4))
            cls = self.param("cls", nn.initializers.zeros, (1, 1, 4))
            x = jnp.concatenate([cls, x], axis=1)
            if self.scanned:
                axes = dict(variable_axes={"params": 0}, split_rngs={"params": True})
                x, _ = nn.scan(Block, **axes, length=2)(True, name="layers")(x, None)
            else:
                for _ in range(2):
                    x, _ = Block()(x)
            x = nn.Dense(3, name="head")(nn.LayerNorm(name="encoder_norm")(x))
            return x / self.param("temperature", nn.initializers.constant(0.07), ())

    return Transformer


# fmt: off
LINEN_BLOCK = {"LayerNorm_0": LAYER_NORM, "MultiHeadDotProductAttention_0": ATTENTION,
               "RMSNorm_0": RMS_NORM, "Dense_0": DENSE, "mlp_out": DENSE}
LINEN_SCANNED = LINEN_BLOCK | {"MultiHeadDotProductAttention_0": ATTENTION | QK_NORMS}
LINEN_OUTSIDE = {
    "Conv_0": DENSE, "BatchNorm_0": LAYER_NORM, "GroupNorm_0": LAYER_NORM,
    "embedding": DENSE,  # a convolution, so named in vision transformers
    "Embed_0": {"embedding": EMBEDDING}, "pos_embedding": EMBEDDING, "cls": OTHER,
    "encoder_norm": LAYER_NORM, "head": DENSE, "temperature": OTHER}
# fmt: on


def _linen_init(module, table, *shapes):
    inputs = [np.zeros(shape, np.float32) for shape in shapes]
    return _initialized(lambda key: module.init(key, *inputs)["params"], table)


@functools.cache
def linen_transformer(scanned=False):
    each = {"Block_0": LINEN_BLOCK, "Block_1": LINEN_BLOCK}
    table = LINEN_OUTSIDE | ({"layers": LINEN_SCANNED} if scanned else each)
    return _linen_init(_linen_class()(scanned), table, (1, 4, 4, 3))


def linen_transformer_frozen():
    from flax.core import freeze

    params, table = linen_transformer()
    return freeze(params), table


def linen_resnet():
    import flax.linen as nn

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = partial(nn.BatchNorm, use_running_average=True)
            x = nn.PReLU()(
                norm(name="bn_init")(nn.Conv(4, (3, 3), name="conv_init")(x))
            )
            y = nn.relu(norm()(nn.Conv(6, (3, 3), use_bias=False)(x)))
            y = nn.GroupNorm(num_groups=3)(nn.Conv(6, (3, 3))(y))
            x = nn.Conv(6, (1, 1), use_bias=False, name="conv_proj")(x)
            x = nn.InstanceNorm()(y + norm(name="norm_proj")(x))
            return nn.Dense(3)(x.mean((1, 2)))

    bare, norm = {"kernel": KERNEL}, LAYER_NORM
    table = {
        "conv_init": DENSE, "bn_init": norm, "PReLU_0": {"negative_slope": OTHER},
        "Conv_0": bare, "BatchNorm_0": norm, "Conv_1": DENSE, "GroupNorm_0": norm,
        "conv_proj": bare, "norm_proj": norm, "InstanceNorm_0": norm, "Dense_0": DENSE,
    }  # fmt: skip
    return _linen_init(ResNet(), table, (1, 4, 4, 3))


def linen_lstm():
    import flax.linen as nn

    model = nn.Sequential([nn.RNN(nn.OptimizedLSTMCell(4)), nn.RNN(nn.GRUCell(4))])
    bare = {"kernel": KERNEL}
    table = {
        "layers_0": {"cell": dict.fromkeys(("ii", "if", "ig", "io"), bare)
                     | dict.fromkeys(("hi", "hf", "hg", "ho"), DENSE)},
        "layers_1": {"cell": dict.fromkeys(("ir", "iz", "in", "hn"), DENSE)
                     | dict.fromkeys(("hr", "hz"), bare)},
    }  # fmt: skip
    return _linen_init(model, table, (1, 3, 2))


def linen_partitioned():
    """Leaves boxed in nn.Partitioned, as models for many devices have them."""
    import flax.linen as nn

    kernel = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    scale = nn.with_partitioning(nn.initializers.ones, ("model",))
    model = nn.Sequential(
        [nn.Dense(4, kernel_init=kernel), nn.LayerNorm(scale_init=scale)]
    )
    table = {"layers_0": DENSE, "layers_1": LAYER_NORM}
    return _linen_init(model, table, (1, 3))


# --- Flax NNX -------------------------------------------------------------------------


def nnx_model(key, stacked=False):
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.ln_1 = nnx.LayerNorm(4, rngs=rngs)
            qk = dict(normalize_qk=True, decode=False)
            self.attn = nnx.MultiHeadAttention(2, 4, **qk, rngs=rngs)
            self.norm1 = nnx.RMSNorm(4, rngs=rngs)
            layers = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
            self.mlp = nnx.List(layers)

    class Transformer(nnx.Module):
        def __init__(self, rngs):
            self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.bn = nnx.BatchNorm(4, rngs=rngs)
            self.gn = nnx.GroupNorm(4, num_groups=2, rngs=rngs)
            self.act = nnx.PReLU()
            self.wte = nnx.Embed(7, 4, rngs=rngs)
            self.pos = nnx.Param(jax.random.normal(rngs.params(), (1, 5, 4)))
            self.cls = nnx.Param(jnp.zeros((1, 1, 4)))
            self.temperature = nnx.Param(jnp.full((), 0.07))
            if stacked:
                make = nnx.vmap(Block, in_axes=0, out_axes=0)
                self.blocks = nnx.split_rngs(splits=2)(lambda rngs: make(rngs))(rngs)
            else:
                self.blocks = nnx.List([Block(rngs) for _ in range(2)])
            self.adapter = nnx.LoRALinear(4, 4, lora_rank=2, rngs=rngs)
            self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(4, 4, rngs=rngs))
            self.ln_f = nnx.LayerNorm(4, use_bias=False, rngs=rngs)
            last = nnx.LayerNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
            self.head = nnx.Sequential(*last)

    return Transformer(nnx.Rngs(key))


@functools.cache
def nnx_transformer(stacked=False):
    from flax import nnx

    block = {"ln_1": LAYER_NORM, "attn": ATTENTION | QK_NORMS,
             "norm1": RMS_NORM, "mlp": [DENSE, DENSE]}  # fmt: skip
    table = {
        "stem": DENSE, "bn": LAYER_NORM, "gn": LAYER_NORM,
        "act": {"negative_slope": OTHER}, "wte": {"embedding": EMBEDDING},
        "pos": EMBEDDING, "cls": OTHER, "temperature": OTHER,
        "blocks": block if stacked else [block, block],
        "adapter": DENSE | {"lora": {"lora_a": OTHER, "lora_b": OTHER}},
        "rnn": {"cell": {"dense_i": {"kernel": KERNEL}, "dense_h": DENSE}},
        "ln_f": RMS_NORM,  # a layer norm without bias
        "head": {"layers": [LAYER_NORM, DENSE]},
    }  # fmt: skip

    def make(key):
        return nnx.state(nnx_model(key, stacked), nnx.Param)

    return _initialized(make, table)


def nnx_transformer_as(form):
    from flax import nnx
    from pure_nnx import as_pure

    state, table = nnx_transformer()
    convert = {"pure": as_pure, "dict": nnx.to_pure_dict}[form]
    return convert(state), table


# --- Equinox --------------------------------------------------------------------------


def equinox_model(key, stacked=False):
    import equinox as eqx

    class Block(eqx.Module):
        first: eqx.nn.LayerNorm
        attention: eqx.nn.MultiheadAttention
        second: eqx.nn.RMSNorm
        normalise: eqx.nn.Linear  # misleading names, on purpose
        scale: eqx.nn.Linear

        def __init__(self, key):
            k1, k2, k3 = jax.random.split(key, 3)
            names = "query", "key", "value", "output"
            biases = {f"use_{name}_bias": True for name in names}
            self.first = eqx.nn.LayerNorm(4)
            self.attention = eqx.nn.MultiheadAttention(2, 4, **biases, key=k1)
            self.second = eqx.nn.RMSNorm(4, use_bias=False)
            self.normalise = eqx.nn.Linear(4, 8, key=k2)
            self.scale = eqx.nn.Linear(8, 4, key=k3)

    class Transformer(eqx.Module):
        embed: eqx.nn.Conv2d
        stem: eqx.nn.Sequential
        tokens: eqx.nn.Embedding
        position_bias: eqx.nn.Embedding
        cls: jax.Array
        blocks: Any
        gru: eqx.nn.GRUCell
        lstm: eqx.nn.LSTMCell
        kernel: eqx.nn.RMSNorm
        head: eqx.nn.MLP

        def __init__(self, key):
            keys = iter(jax.random.split(key, 9))
            conv = partial(eqx.nn.Conv2d, kernel_size=3)
            self.embed = conv(3, 4, key=next(keys))
            self.stem = eqx.nn.Sequential([
                conv(4, 4, use_bias=False, key=next(keys)),
                eqx.nn.BatchNorm(4, "batch", mode="batch"),
                eqx.nn.PReLU(),
                conv(4, 4, key=next(keys)),
                eqx.nn.GroupNorm(2, 4),
            ])  # fmt: skip
            self.tokens = eqx.nn.Embedding(7, 4, key=next(keys))
            self.position_bias = eqx.nn.Embedding(5, 2, key=next(keys))
            self.cls = jnp.zeros((1, 4))
            block_keys = jax.random.split(next(keys), 2)
            each = [Block(key) for key in block_keys]
            self.blocks = eqx.filter_vmap(Block)(block_keys) if stacked else each
            self.gru = eqx.nn.GRUCell(4, 4, key=next(keys))
            self.lstm = eqx.nn.LSTMCell(4, 4, key=next(keys))
            self.kernel = eqx.nn.RMSNorm(4)
            self.head = eqx.nn.MLP(4, 3, 5, depth=1, key=next(keys))

    return eqx.nn.make_with_state(Transformer)(key)[0]


def equinox_transformer(stacked=False):
    import equinox as eqx

    linear = {"weight": KERNEL, "bias": BIAS}
    norm = {"weight": NORM, "bias": BIAS}
    cell = {"weight_ih": KERNEL, "weight_hh": KERNEL, "bias": BIAS}
    projections = "query_proj", "key_proj", "value_proj", "output_proj"
    block = {"first": norm, "attention": dict.fromkeys(projections, linear),
             "second": {"weight": NORM}, "normalise": linear,
             "scale": linear}  # fmt: skip
    stem = [{"weight": KERNEL}, norm, {"negative_slope": OTHER}, linear, norm]
    table = {
        "embed": linear, "stem": {"layers": stem}, "tokens": {"weight": EMBEDDING},
        "position_bias": {"weight": EMBEDDING}, "cls": OTHER,
        "blocks": block if stacked else [block, block],
        "gru": cell | {"bias_n": BIAS}, "lstm": cell, "kernel": norm,
        "head": {"layers": [linear, linear]},
    }  # fmt: skip

    def make(key):
        return eqx.filter(equinox_model(key, stacked), eqx.is_inexact_array)

    return _initialized(make, table)


# --- Written as shapes: each leaf declared with its role ------------------------------


def _declared(tree):
    """Params and roles of a tree of Leaf."""

    def shape(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float32)

    params = jax.tree.map(shape, tree, is_leaf=_is_leaf)
    return params, jax.tree.map(lambda leaf: leaf.role, tree, is_leaf=_is_leaf)


def _is_leaf(x):
    return isinstance(x, Leaf)


def _stack(tree, n=2, axis=0):
    def insert(leaf):
        return Leaf(leaf.role, leaf.shape[:axis] + (n,) + leaf.shape[axis:])

    return jax.tree.map(insert, tree, is_leaf=_is_leaf)


# fmt: off
K, E, B, N, O = (  # noqa: E741
    partial(lambda role, *shape: Leaf(role, shape), role) for role in ROLES)


def _dense(i, o, weight="kernel", bias="bias"):
    return {weight: K(i, o), bias: B(o)}


def _norm(weight="scale", bias="bias"):
    return {weight: N(4), bias: B(4)}


def haiku_transformer(stacked=False):
    w, norm = partial(_dense, weight="w", bias="b"), _norm(bias="offset")
    heads = {f"multi_head_attention/{name}": w(4, 4)
             for name in ("query", "key", "value", "linear")}
    block = heads | {"layer_norm": norm, "rms_norm": {"scale": N(4)},
                     "mlp/~/linear_0": w(4, 8), "mlp/~/linear_1": w(8, 4)}
    stack = {f"transformer/__layer_stack_no_per_layer/{name}": leaves
             for name, leaves in _stack(block).items()}
    each = {f"transformer/~/block_{i}/{name}": leaves
            for i in range(2) for name, leaves in block.items()}
    return _declared((stack if stacked else each) | {
        "transformer": {"positional_embeddings": E(5, 4), "cls_token": O(1, 4)},
        "transformer/~/linear_0": w(4, 4),
        "embed": {"embeddings": E(7, 4)},
        "conv2_d": {"w": K(3, 3, 3, 4), "b": B(4)},
        "batch_norm": {"scale": N(1, 1, 1, 4), "offset": B(1, 1, 1, 4)},
        "group_norm": norm,
        "bias": {"b": B(5, 4)},  # hk.Bias over a sequence
        "lstm/linear": w(8, 16),
        "gru": {"w_i": K(4, 12), "w_h": K(4, 12), "b": B(12)},
        "layer_norm": norm})


def gpt2(kernel="kernel", scale="scale", embedding="embedding"):
    attn = {"c_attn": _dense(4, 12, kernel), "c_proj": _dense(4, 4, kernel)}
    mlp = {"c_fc": _dense(4, 8, kernel), "c_proj": _dense(8, 4, kernel)}
    block = {"ln_1": _norm(scale), "attn": attn, "ln_2": _norm(scale), "mlp": mlp}
    return _declared({
        "wte": {embedding: E(7, 4)}, "wpe": {embedding: E(5, 4)},
        "h": {"0": block, "1": block}, "ln_f": _norm(scale)})


def llama(kernel="kernel", embedding="embedding", stacked=False):
    names = "q_proj", "k_proj", "v_proj", "o_proj"
    mlp = {"gate_proj": K(4, 8), "up_proj": K(4, 8), "down_proj": K(8, 4)}
    attention = {name: {kernel: K(4, 4)} for name in names}
    layer = {"input_layernorm": {"weight": N(4)}, "self_attn": attention,
             "post_attention_layernorm": {"weight": N(4)},
             "mlp": {name: {kernel: leaf} for name, leaf in mlp.items()}}
    return _declared({
        "embed_tokens": {embedding: E(7, 4)},
        "layers": _stack(layer) if stacked else {"0": layer, "1": layer},
        "norm": {"weight": N(4)}, "lm_head": {kernel: K(4, 7)}})


def bert():
    qkv = {name: _dense(4, 4) for name in ("query", "key", "value")}
    out = {"dense": _dense(4, 4), "LayerNorm": _norm()}
    layer = {"attention": {"self": qkv, "output": out},
             "intermediate": {"dense": _dense(4, 8)},
             "output": {"dense": _dense(8, 4), "LayerNorm": _norm()}}
    return _declared({
        "bert": {
            "embeddings": {"word_embeddings": {"embedding": E(7, 4)},
                           "position_embeddings": {"embedding": E(5, 4)},
                           "token_type_embeddings": {"embedding": E(2, 4)},
                           "LayerNorm": _norm()},
            "encoder": {"layer": {"0": layer, "1": layer}},
            "pooler": {"dense": _dense(4, 4)}},
        "cls": {"predictions": {"transform": out, "bias": B(7)}}})


def t5(kernel="kernel", embedding="embedding"):
    attention = {name: {kernel: K(4, 4)} for name in "qkvo"}
    attention["relative_attention_bias"] = {embedding: E(8, 2)}
    norm = {"weight": N(4)}
    mlp = {"wi": {kernel: K(4, 8)}, "wo": {kernel: K(8, 4)}}
    layers = {"0": {"SelfAttention": attention, "layer_norm": norm},
              "1": {"DenseReluDense": mlp, "layer_norm": norm}}
    return _declared({
        "shared": {embedding: E(7, 4)},
        "encoder": {"block": {"0": {"layer": layers}}, "final_layer_norm": norm}})


def t5x_scanned():
    """T5X stacks its layers along axis 1."""
    attention = {name: {"kernel": K(4, 4)} for name in ("query", "key", "value", "out")}
    layer = {"pre_attention_layer_norm": {"scale": N(4)}, "attention": attention,
             "pre_mlp_layer_norm": {"scale": N(4)},
             "mlp": {"wi": {"kernel": K(4, 8)}, "wo": {"kernel": K(8, 4)}}}
    return _declared({
        "token_embedder": {"embedding": E(7, 4)},
        "encoder": {"relpos_bias": {"rel_embedding": E(2, 8)},
                    "encoder": _stack(layer, axis=1), "encoder_norm": {"scale": N(4)}}})


def vit_big_vision():
    heads = {"kernel": K(4, 2, 2), "bias": B(2, 2)}
    out = {"kernel": K(2, 2, 4), "bias": B(4)}
    mha = {"query": heads, "key": heads, "value": heads, "out": out}
    mlp = {"Dense_0": _dense(4, 8), "Dense_1": _dense(8, 4)}
    block = {"LayerNorm_0": _norm(), "MultiHeadDotProductAttention_0": mha,
             "LayerNorm_1": _norm(), "MlpBlock_0": mlp}
    pool = {"probe": O(1, 1, 4), "MultiHeadDotProductAttention_0": mha,
            "LayerNorm_0": _norm(), "MlpBlock_0": mlp}
    return _declared({
        "embedding": {"kernel": K(2, 2, 3, 4), "bias": B(4)},  # of the patches
        "pos_embedding": E(1, 5, 4), "cls": O(1, 1, 4),
        "Transformer": {"encoderblock_0": block, "encoder_norm": _norm()},
        "MAPHead_0": pool, "head": _dense(4, 3)})


def vit_timm():
    dense = partial(_dense, weight="weight")
    block = {"norm1": _norm("weight"), "norm2": _norm("weight"),
             "attn": {"qkv": dense(4, 12), "proj": dense(4, 4)},
             "ls1": {"gamma": N(4)},  # LayerScale as in timm
             "layer_scale2": {"lambda1": O(4)},  # LayerScale as in DINOv2
             "mlp": {"fc1": dense(4, 8), "fc2": dense(8, 4)}}
    return _declared({
        "cls_token": O(1, 1, 4), "pos_embed": E(1, 5, 4),
        "patch_embed": {"proj": {"weight": K(4, 3, 2, 2), "bias": B(4)}},
        "blocks": {"0": block, "1": block}, "norm": _norm("weight"),
        "head": dense(4, 3)})


def clip():
    names = "q_proj", "k_proj", "v_proj", "out_proj"
    layer = {"self_attn": {name: _dense(4, 4) for name in names},
             "layer_norm1": _norm(), "layer_norm2": _norm(),
             "mlp": {"fc1": _dense(4, 8), "fc2": _dense(8, 4)}}
    encoder = {"layers": {"0": layer}}
    words = {"token_embedding": {"embedding": E(7, 4)},
             "position_embedding": {"embedding": E(5, 4)}}
    patches = {"class_embedding": O(4),  # a CLS token
               "patch_embedding": {"kernel": K(2, 2, 3, 4)},  # a convolution
               "position_embedding": {"embedding": E(5, 4)}}
    text = {"embeddings": words, "encoder": encoder, "final_layer_norm": _norm()}
    vision = {"embeddings": patches, "encoder": encoder, "post_layernorm": _norm(),
              "pre_layrnorm": _norm()}  # so spelt there
    return _declared({
        "text_model": text, "text_projection": {"kernel": K(4, 4)},
        "vision_model": vision, "visual_projection": {"kernel": K(4, 4)},
        "logit_scale": O()})  # a temperature


def gemma():
    attn = {"q_einsum": {"w": K(2, 4, 2)}, "kv_einsum": {"w": K(2, 1, 4, 2)},
            "attn_vec_einsum": {"w": K(2, 2, 4)}}
    layer = {"pre_attention_norm": {"scale": N(4)}, "attn": attn,
             "pre_ffw_norm": {"scale": N(4)},
             "mlp": {"gating_einsum": K(2, 4, 8), "linear": K(8, 4)}}  # bare arrays
    return _declared({"embedder": {"input_embedding": E(7, 4)}, "layer_0": layer,
                      "final_norm": {"scale": N(4)}})


def mamba():
    mixer = {"in_proj": {"weight": K(16, 4)}, "x_proj": {"weight": K(5, 8)},
             "conv1d": {"weight": K(8, 1, 4), "bias": B(8)},
             "dt_proj": {"weight": K(8, 1), "bias": B(8)},
             "A_log": O(8, 2), "D": O(8), "out_proj": {"weight": K(4, 8)}}
    return _declared({"embedding": {"weight": E(7, 4)}, "norm_f": {"weight": N(4)},
                      "layers": {"0": {"norm": {"weight": N(4)}, "mixer": mixer}}})


def resnet_torch():
    def conv(size):
        return {"weight": K(4, 4, size, size)}

    norm = _norm("weight")
    block = {"conv1": conv(3), "bn1": norm, "conv2": conv(3), "bn2": norm,
             "downsample": {"0": conv(1), "1": norm}}  # the name "1" has no meaning
    return _declared({"conv1": conv(7), "bn1": norm,
                      "layer1": {"0": block}, "fc": _dense(4, 3, "weight")})
# fmt: on


# --- The zoo, and what customary masks do in it ---------------------------------------

_torch = dict(kernel="weight", embedding="weight")
_BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "linen_transformer": linen_transformer,
    "linen_transformer_frozen": linen_transformer_frozen,
    "linen_scanned": partial(linen_transformer, scanned=True),
    "linen_resnet": linen_resnet,
    "linen_lstm": linen_lstm,
    "linen_partitioned": linen_partitioned,
    "nnx_transformer": nnx_transformer,
    "nnx_transformer_pure": partial(nnx_transformer_as, "pure"),
    "nnx_transformer_dict": partial(nnx_transformer_as, "dict"),
    "nnx_stacked": partial(nnx_transformer, stacked=True),
    "equinox_transformer": equinox_transformer,
    "equinox_stacked": partial(equinox_transformer, stacked=True),
    "haiku_transformer": haiku_transformer,
    "haiku_stacked": partial(haiku_transformer, stacked=True),
    "gpt2_flax": gpt2,
    "gpt2_torch": partial(gpt2, scale="weight", **_torch),
    "llama_flax": llama,
    "llama_torch": partial(llama, **_torch),
    "llama_stacked": partial(llama, stacked=True),
    "bert_flax": bert,
    "t5_flax": t5,
    "t5_torch": partial(t5, **_torch),
    "t5x_scanned": t5x_scanned,
    "vit_big_vision": vit_big_vision,
    "vit_timm": vit_timm,
    "clip_flax": clip,
    "gemma": gemma,
    "mamba_torch": mamba,
    "resnet_torch": resnet_torch,
}
MODELS: dict[str, Callable[[], Zoo]] = {
    name: partial(_zoo, name, build) for name, build in _BUILDERS.items()
}

FOLK_MASKS: dict[str, Callable[[tuple[str, ...], Any], bool]] = {
    "ndim > 1": lambda path, leaf: leaf.ndim > 1,
    "ndim != 1": lambda path, leaf: leaf.ndim != 1,
    "HF": lambda path, leaf: path[-1] != "bias" and path[-2:] != ("LayerNorm", "scale"),
    "== 'kernel'": lambda path, leaf: path[-1] == "kernel",
}


def count_wrong(zoo: Zoo, mask) -> tuple[int, int]:
    """Biases and norm scales that ``mask`` decays, kernels that it does not."""
    decayed = missed = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(zoo.params)[0]:
        keys = _keys(path)
        role, chosen = zoo.roles["/".join(keys)], bool(mask(keys, leaf))
        decayed += chosen and role in (BIAS, NORM)
        missed += not chosen and role == KERNEL
    return decayed, missed


# Per model: (decayed wrongly, kernels missed) for each of FOLK_MASKS, in their order.
EXPECTED_WRONG: dict[str, tuple[tuple[int, int], ...]] = {
    "linen_transformer": ((6, 0), (6, 0), (7, 0), (0, 0)),
    "linen_transformer_frozen": ((6, 0), (6, 0), (7, 0), (0, 0)),
    "linen_scanned": ((11, 0), (11, 0), (7, 0), (0, 0)),
    "linen_resnet": ((0, 0), (0, 0), (5, 0), (0, 0)),
    "linen_lstm": ((0, 0), (0, 0), (0, 0), (0, 0)),
    "linen_partitioned": ((0, 0), (0, 0), (1, 0), (0, 0)),
    "nnx_transformer": ((6, 0), (6, 0), (12, 0), (0, 0)),
    "nnx_transformer_pure": ((6, 0), (6, 0), (12, 0), (0, 0)),
    "nnx_transformer_dict": ((6, 0), (6, 0), (12, 0), (0, 0)),
    "nnx_stacked": ((11, 0), (11, 0), (8, 0), (0, 0)),
    "equinox_transformer": ((2, 0), (2, 0), (8, 0), (0, 21)),
    "equinox_stacked": ((11, 0), (11, 0), (6, 0), (0, 15)),
    "haiku_transformer": ((3, 0), (3, 0), (29, 0), (0, 17)),
    "haiku_stacked": ((12, 0), (12, 0), (20, 0), (0, 11)),
    "gpt2_flax": ((0, 0), (0, 0), (5, 0), (0, 0)),
    "gpt2_torch": ((0, 0), (0, 0), (5, 0), (0, 8)),
    "llama_flax": ((0, 0), (0, 0), (5, 0), (0, 0)),
    "llama_torch": ((0, 0), (0, 0), (5, 0), (0, 15)),
    "llama_stacked": ((2, 0), (2, 0), (3, 0), (0, 0)),
    "bert_flax": ((0, 0), (0, 0), (0, 0), (0, 0)),
    "t5_flax": ((0, 0), (0, 0), (3, 0), (0, 0)),
    "t5_torch": ((0, 0), (0, 0), (3, 0), (0, 6)),
    "t5x_scanned": ((2, 0), (2, 0), (3, 0), (0, 0)),
    "vit_big_vision": ((6, 0), (6, 0), (4, 0), (0, 0)),
    "vit_timm": ((0, 0), (0, 0), (7, 0), (0, 10)),
    "clip_flax": ((0, 0), (0, 0), (7, 0), (0, 0)),
    "gemma": ((0, 0), (0, 0), (3, 0), (0, 5)),
    "mamba_torch": ((0, 0), (0, 0), (2, 0), (0, 5)),
    "resnet_torch": ((0, 0), (0, 0), (4, 0), (0, 5)),
}


def main():
    head = f"{'model':25}" + "".join(f"{role:>11}" for role in ROLES)
    print(head + "".join(f"{mask:>15}" for mask in FOLK_MASKS))
    for name, build in MODELS.items():
        zoo = build()
        roles = Counter(zoo.roles.values())
        wrong = tuple(count_wrong(zoo, mask) for mask in FOLK_MASKS.values())
        assert wrong == EXPECTED_WRONG[name], (name, wrong)
        excluded = roles[BIAS] + roles[NORM]
        cells = [f"{d}/{excluded}" + (f", -{m}" if m else "") for d, m in wrong]
        row = f"{name:25}" + "".join(f"{roles[role]:11}" for role in ROLES)
        print(row + "".join(f"{cell:>15}" for cell in cells))
    print("n/m: of m biases and norm scales, n are decayed; -k: k kernels are not.")


if __name__ == "__main__":
    main()
