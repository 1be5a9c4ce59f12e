"""The truth for the modules of `idiomatic_flax` and `idiomatic_equinox`."""

from symmetric import idiomatic_equinox as eq, idiomatic_flax as fx
from symmetric.idiomatic_equinox import from_equinox
from symmetric.idiomatic_flax import from_linen, from_nnx
from symmetric.model import data, group, Model, tokens
from symmetric.stacks import all_of, every
from symmetric.transformers import at, prefixed


IDS, ROWS = tokens(8, 5, 11), data(9, 6)
SEQUENCES, IMAGES = data(8, 5, 6), data(8, 3, 6, 5)
BLOCKS = ("blocks/0", "blocks/1")


def row(framework, name, make, groups, invariant=None, dead="", stacks=None):
    return Model(
        name=name,
        make=make,
        invariant=invariant or {},
        dead=tuple(dead.split()),
        groups=tuple(groups),
        stacks=stacks or {},
        optional=(),
        near=(),
        framework=framework,
    )


NNX = [
    # q and k: a norm per head. v reads norm1: g1 + v + o = t. gate = -g2 (SiLU).
    row(
        "nnx",
        "nested_qk_norm",
        from_nnx(fx.Transformer, IDS),
        [
            group(
                "embedding/embedding "
                + prefixed(BLOCKS, "attention/out/kernel down/kernel")
            ),
            *(at(i, "norm1/scale", "attention/value/kernel") for i in BLOCKS),
            *(at(i, "attention/value/kernel", "attention/out/kernel") for i in BLOCKS),
            *(
                at(i, "attention/query_ln/scale", "attention/key_ln/scale")
                for i in BLOCKS
            ),
            *(at(i, "norm2/scale", "gate/kernel up/kernel") for i in BLOCKS),
            *(at(i, "up/kernel", "down/kernel") for i in BLOCKS),
            group("norm/scale", "head/kernel"),
        ],
        dict.fromkeys(
            prefixed(BLOCKS, "attention/query/kernel attention/key/kernel").split(),
            (1,),
        ),
    ),
    # The input of each layer has degree 0, and a norm follows: w = b.
    row(
        "nnx",
        "scanned_layers",
        from_nnx(fx.Stack, ROWS),
        every("layers/kernel layers/bias"),
        stacks={"layers/kernel": 0, "layers/bias": 0},
    ),
    # kernel = bias = a + b = -head.
    row(
        "nnx",
        "lora_linear",
        from_nnx(fx.Adapted, ROWS),
        [
            group("inner/lora/lora_a", "inner/lora/lora_b"),
            group("inner/kernel inner/bias inner/lora/lora_b", "head/kernel"),
        ],
    ),
    # BatchNorm: bias dead. b4 = g1 + w4, then LayerNorm. Tanh reads it: gains seen.
    row(
        "nnx",
        "sequential",
        from_nnx(fx.sequential, ROWS),
        [
            group("layers/1/scale layers/1/bias layers/4/bias"),
            group("layers/4/kernel layers/4/bias"),
        ],
        {"layers/0/kernel": (1,)},
        "layers/0/bias",
    ),
]

LINEN = [
    # The slices of the fused kernel are q, k and v.
    row(
        "linen",
        "fused_attention",
        from_linen(fx.FusedAttention(), IDS),
        [
            group("embed/embedding out/kernel out/bias"),
            group("qkv/kernel[:,0] qkv/bias[0]", "qkv/kernel[:,1]"),
            group("qkv/kernel[:,2] qkv/bias[2]", "out/kernel"),
            group(
                "LayerNorm_0/scale LayerNorm_0/bias",
                "qkv/kernel[:,0] qkv/kernel[:,1] qkv/kernel[:,2]",
            ),
            group("LayerNorm_1/scale LayerNorm_1/bias", "Dense_0/kernel"),
        ],
        dead="qkv/bias[1]",
        stacks={"qkv/kernel": 1, "qkv/bias": 0},
    ),
    # b1 = g0 + w1 = -w2.
    row(
        "linen",
        "compact_batch_norm",
        from_linen(fx.Compact(), ROWS),
        [
            group("BatchNorm_0/scale BatchNorm_0/bias Dense_1/bias", "Dense_2/kernel"),
            group("Dense_1/kernel Dense_1/bias", "Dense_2/kernel"),
        ],
        {"Dense_0/kernel": (1,)},
        "Dense_0/bias",
    ),
    # b_i = g_(i-1) + w_i, then a norm; the head reads g_2.
    row(
        "linen",
        "scanned_layers",
        from_linen(fx.Scanned(), ROWS),
        [
            *every("layers/Dense_0/kernel layers/Dense_0/bias"),
            group("layers/RMSNorm_0/scale[0] layers/Dense_0/bias[1]"),
            group("layers/RMSNorm_0/scale[1] layers/Dense_0/bias[2]"),
            group("layers/RMSNorm_0/scale[2]", "head/kernel"),
        ],
        stacks=dict.fromkeys(
            prefixed("layers", "Dense_0/kernel Dense_0/bias RMSNorm_0/scale").split(), 0
        ),
    ),
    # Each member has outputs of its own.
    row(
        "linen",
        "ensemble",
        from_linen(fx.Ensemble(), ROWS),
        every("members/hidden/kernel members/hidden/bias", "members/out/kernel"),
        stacks=dict.fromkeys(
            prefixed(("members/hidden", "members/out"), "kernel bias").split(), 0
        ),
    ),
    # The directions are invariant per output; the scales replace the kernels.
    row(
        "linen",
        "weight_norm_wrapper",
        from_linen(fx.WeightNormed(), ROWS),
        [
            group(
                "WeightNorm_0/Dense_0/kernel/scale Dense_0/bias",
                "WeightNorm_1/Dense_1/kernel/scale",
            )
        ],
        {"Dense_0/kernel": (1,), "Dense_1/kernel": (1,)},
    ),
]

EQUINOX = [
    # The equations of `mlp_relu`.
    row(
        "equinox",
        "eqx_mlp",
        from_equinox(eq.mlp, ROWS),
        [
            at("inner/layers", "0/weight 0/bias 1/bias", "2/weight"),
            at("inner/layers", "1/weight 1/bias", "2/weight"),
        ],
    ),
    # Instance norm: filters are invariant, the bias is dead. The head reads degree 0.
    row(
        "equinox",
        "sequential_instance_norm",
        from_equinox(eq.convolutions, IMAGES),
        [],
        {"inner/layers/0/weight": (0,), "inner/layers/4/weight": (0,)},
        "inner/layers/0/bias",
    ),
    row(
        "equinox",
        "weight_norm_wrapper",
        from_equinox(eq.WeightNormed, ROWS),
        [group("one/g one/layer/bias", "two/g")],
        {"one/layer/weight": (0,), "two/layer/weight": (0,)},
    ),
    # E = t = last layer of the MLP; logits: g + E = 0 = bias. GELU: norm = -w0.
    row(
        "equinox",
        "shared_embedding",
        from_equinox(eq.Tied, IDS),
        [
            group(
                "shared/pytree/0/weight mlp/layers/1/weight mlp/layers/1/bias",
                "final/weight",
            ),
            group("norm/weight", "mlp/layers/0/weight"),
        ],
    ),
    # q + k = -2 g1 and v + o = t - g1. ReLU: g2 + up is the degree of up's bias,
    # and g2 + up + down = t.
    row(
        "equinox",
        "scanned_blocks",
        from_equinox(eq.Scanned, SEQUENCES),
        [
            group(
                "embedding/weight embedding/bias "
                + all_of(
                    "blocks/attention/output_proj/weight blocks/down/weight "
                    "blocks/down/bias"
                )
            ),
            *every(
                "blocks/attention/query_proj/weight blocks/attention/query_proj/bias",
                "blocks/attention/key_proj/weight",
            ),
            *every(
                "blocks/attention/value_proj/weight",
                "blocks/attention/output_proj/weight",
            ),
            *every(
                "blocks/norm1/weight blocks/norm1/bias",
                "blocks/attention/query_proj/weight blocks/attention/key_proj/weight "
                "blocks/attention/value_proj/weight",
            ),
            *every("blocks/norm2/weight blocks/norm2/bias", "blocks/up/weight"),
            *every("blocks/up/weight blocks/up/bias", "blocks/down/weight"),
            group("norm/weight norm/bias", "head/weight"),
        ],
        dead=all_of("blocks/attention/key_proj/bias"),
        stacks={
            f"blocks/{name}": 0
            for name in (
                *prefixed(("norm1", "norm2", "up", "down"), "weight bias").split(),
                *prefixed("attention", "query_proj/weight query_proj/bias").split(),
                *prefixed("attention", "key_proj/weight key_proj/bias").split(),
                *prefixed("attention", "value_proj/weight output_proj/weight").split(),
            )
        },
    ),
    row(
        "equinox",
        "mean_of_ensemble",
        from_equinox(eq.Ensemble, ROWS),
        every(
            "members/layers/0/weight members/layers/0/bias", "members/layers/1/weight"
        ),
        stacks=dict.fromkeys(
            prefixed("members/layers", "0/weight 0/bias 1/weight").split(), 0
        ),
    ),
]
