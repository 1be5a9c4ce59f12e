"""The role of a parameter: kernel, embedding, bias, norm scale or other.

Shapes mislead: attention biases are matrices, and stacked layers give norm scales
another axis. So names decide first, the number of axes last: see `by_role`.
"""

import re
from typing import Any, NamedTuple

import numpy as np
import optax
from jax.tree_util import GetAttrKey, tree_flatten_with_path

from decayax._core.paths import flatten_with_path, is_masked_leaf, Path


KERNEL, EMBEDDING, BIAS = "kernel", "embedding", "bias"
NORM_SCALE, OTHER = "norm_scale", "other"
Shape = tuple[int, ...]

# LayerNorm_0 is two words and a number, layernorm1 one and a number, conv2_d two.
TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Words that name a leaf of any module: b, beta, offset; scale, gamma.
BIAS_WORD = re.compile(r"b|bias|biases|beta|offset|shift").fullmatch
SCALE_WORD = re.compile(r"scale|scales|gamma|gammas").fullmatch
# Words that name the weight of a module: its role is that of the module. wq, wi, wo.
WEIGHT_WORD = re.compile(r"w|w[a-z]|weight|weights|kernel|kernels").fullmatch
# Words that name a module, or a leaf without a module.
NORM_WORD = re.compile(r"ln|bn|gn|rms|subln|.*norms?|.*normali.*|scale").fullmatch
# "bias" as a module is the table of relative positions: relative_attention_bias.
TABLE_WORD = re.compile(
    r"emb.*|wte|wpe|pe|pos|positions?|positional|shared|table|codebook|bias"
).fullmatch
LAYER_WORD = re.compile(
    r"conv.*|.*(attention|attn|linear|dense|proj|projection|conv|lstm|gru|rnn|cell|mlp|"
    r"ffn|ff|fc|feedforward|einsum|unembed|experts?|classifier)"
).fullmatch
# Words that name a part of a layer; another word in the name can outweigh them.
PART_WORD = re.compile(
    r"q|k|v|o|qkv|kv|query|key|value|out|output|head|gate|up|down|ih|hh|w[a-z]?"
).fullmatch

# What the words are for, by example; `role_of` checks both tables.
# The name of a leaf -> its role, for a (4, 4) leaf without a module.
ROLES_OF_LEAVES = {
    KERNEL: "kernel recurrent_kernel W_Q wi weight_hh_l0 in_proj_weight q_proj linear "
    "attn_vec_einsum head qkv",
    EMBEDDING: "embedding embeddings W_pos pos_enc pos_embedding wte wpe pe codebook "
    "label_emb position_bias_table input_embedding",
    BIAS: "b b0 b_Q bq bias biases bias_hh beta offset shift in_proj_bias rel_pos_bias "
    "embedding_bias",
    NORM_SCALE: "g weight_g scale scales gamma gamma_pre_attn norm norm_weight ln_1 "
    "ln1_scale attention_norm",
    OTHER: "cls cls_token cls_embedding class_token probe temperature lora_a lora_b "
    "A_log D x",
}
# The name of a module -> the role of its leaf "weight", for a (4, 4) leaf without bias.
ROLES_OF_WEIGHTS = {
    KERNEL: "Conv2d_0 conv1 convolution dwconv projection q_proj c_attn selfAttention "
    "LSTMCell gru rnn mlp ffn fc1 experts classifier unembed query head gate up wi",
    EMBEDDING: "embedder tok_emb embed_tokens wte wpe shared position positions "
    "positional position_table vocab_table relative_attention_bias",
    NORM_SCALE: "LayerNorm_0 LayerNormalization RMSNorm_0 bn1 gn ln_f subln rms norms "
    "normalise input_layernorm attn_norm q_norm conv_bn norm_out norm_q pre_norm",
}


class Role(NamedTuple):
    """The role of a parameter, and whether it follows from more than the axes."""

    name: str
    sure: bool = True


class Leaf(NamedTuple):
    """What a role follows from."""

    name: str  # its own
    shape: Shape
    module: str = ""  # the name of the dict or module that holds it
    module_type: str = ""  # the type of that module, "" if it is a container
    bias_shape: Shape | None = None  # of the bias in the same module
    has_sibling_a: bool = False  # next to a leaf "a": "b" is a factor then, not a bias


def roles(params: optax.Params) -> dict[Path, Role]:
    """The role of every leaf that is not None or MaskedNode, by path."""
    flat, _ = flatten_with_path(params)
    types = _module_types(params, "")
    leaves = [
        (path, _split(path), tuple(np.shape(leaf)), module_type)
        for (path, leaf), module_type in zip(flat, types, strict=True)
        if not is_masked_leaf(leaf)
    ]
    places = {place for _, place, _, _ in leaves}
    bias_shapes = {
        (modules, _stem(name)): shape
        for _, (modules, name), shape, _ in leaves
        if _is_bias(name)
    }
    found = {}
    for path, (modules, name), shape, module_type in leaves:
        named = [key for key in modules if not key.isdigit()]
        leaf = Leaf(
            name=name,
            shape=shape,
            module=named[-1] if named else "",
            module_type=module_type,
            bias_shape=bias_shapes.get((modules, _stem(name))),
            has_sibling_a=(modules, "a") in places or (modules, "A") in places,
        )
        found[path] = role_of(leaf)
    return found


def role_of(leaf: Leaf) -> Role:
    """The role of one leaf: by its own name, else as the weight of its module.

    >>> for role, names in ROLES_OF_LEAVES.items():
    ...     for name in names.split():
    ...         assert role_of(Leaf(name, (4, 4))).name == role, name
    >>> for role, modules in ROLES_OF_WEIGHTS.items():
    ...     for module in modules.split():
    ...         assert role_of(Leaf("weight", (4, 4), module)) == Role(role), module
    """
    axes, words = len(leaf.shape), _words(leaf.name)
    if _is_bias(leaf.name):
        return Role(OTHER, sure=False) if leaf.has_sibling_a else Role(BIAS)
    if any(map(SCALE_WORD, words)) or leaf.name == "g" or words[1:] == ["g"]:
        # A scale with no axes scales a whole layer, such as a temperature.
        return Role(NORM_SCALE) if axes else Role(OTHER, sure=False)
    role = _role_of_module(words)
    if role == NORM_SCALE:
        return Role(NORM_SCALE)
    if role == EMBEDDING and axes >= 2 and words[0] not in ("cls", "class"):
        return Role(EMBEDDING)
    if role != EMBEDDING and any(map(WEIGHT_WORD, words)):
        return _role_of_weight(leaf)
    if role == KERNEL and axes >= 2:
        return Role(KERNEL)
    return Role(OTHER, sure=False)


def _role_of_weight(leaf: Leaf) -> Role:
    """The role of a leaf that is named as a weight, of a layer or of a norm."""
    if "kernel" in leaf.name.lower():
        return Role(KERNEL)
    if role := _role_of_module(_words(leaf.module_type)):
        return Role(role)
    # The comparison with the bias holds for stacked layers too.
    if leaf.bias_shape == leaf.shape:
        return Role(NORM_SCALE)
    if leaf.bias_shape is not None and len(leaf.bias_shape) < len(leaf.shape):
        return Role(KERNEL)
    # The name of the leaf can hold that of a module: in_proj_weight.
    own = [word for word in _words(leaf.name) if not WEIGHT_WORD(word)]
    if role := _role_of_module(own) or _role_of_module(_words(leaf.module)):
        return Role(role)
    return Role(KERNEL if len(leaf.shape) >= 2 else NORM_SCALE, sure=False)


def _role_of_module(words: list[str]) -> str | None:
    """The role of a module's weight: by the last known word of the module's name."""
    for word in reversed(words):
        if NORM_WORD(word):
            return NORM_SCALE
        if TABLE_WORD(word):
            return EMBEDDING
        if LAYER_WORD(word):
            # ln_mlp is the norm before the MLP, norm_mlp may be an MLP.
            return None if any(map(NORM_WORD, words)) else KERNEL
    return KERNEL if any(map(PART_WORD, words)) else None


def _is_bias(name: str) -> bool:
    """Whether it names a bias: bias, in_proj_bias, bias_ih, b, b1, b_Q, bq; not lora_b.

    >>> [name for name in ("bias_ih", "b1", "bq", "lora_b", "ab") if _is_bias(name)]
    ['bias_ih', 'b1', 'bq']
    """
    words = _words(name)
    if not words or words[0] == "lora":
        return False
    if BIAS_WORD(words[0]) or BIAS_WORD(words[-1]):
        return True
    return len(words) == 1 and re.fullmatch(r"b[hiokqv]", words[0]) is not None


def _words(name: str) -> list[str]:
    """The words of a name in lower case, without numbers.

    >>> _words("LayerNorm_0"), _words("in_proj_weight"), _words("W_Q")
    (['layer', 'norm'], ['in', 'proj', 'weight'], ['w', 'q'])
    """
    return [token.lower() for token in TOKEN.findall(name) if not token.isdigit()]


def _stem(name: str) -> tuple[str, ...]:
    """A name without its word for weight or bias: the same for the two of a layer.

    >>> _stem("weight_ih_l0") == _stem("bias_ih_l0") == ("ih", "l", "0")
    True
    """
    tokens = [token.lower() for token in TOKEN.findall(name)]
    return tuple(t for t in tokens if not BIAS_WORD(t) and not WEIGHT_WORD(t))


def _split(path: Path) -> tuple[Path, str]:
    """The names of the modules that hold a leaf, and the leaf's own name.

    A key that is itself a path is split. A leaf in a list has the name of the list.

    >>> _split(("mlp/~/linear_0", "w")), _split(("dense", "weights", "0"))
    ((('mlp', 'linear_0'), 'w'), (('dense', '0'), 'weights'))
    """
    keys = [key for node in path for key in re.findall(r"\w+", node)]
    named = [index for index, key in enumerate(keys) if not key.isdigit()]
    if not named:
        return tuple(keys), ""
    own = named[-1]
    return tuple(keys[:own] + keys[own + 1 :]), keys[own]


def _module_types(node: Any, module_type: str) -> list[str]:
    """For every leaf, in order, the type of the innermost module that holds it.

    Containers (dicts, lists, tuples, Flax states) are not modules: the names in their
    paths are used. The same holds for an nnx.Param, whose type says nothing.
    """
    children, _ = tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    is_leaf = len(children) == 1 and children[0][1] is node
    if is_leaf or is_masked_leaf(node):
        return [module_type]
    has_fields = all(isinstance(path[0], GetAttrKey) for path, _ in children)
    is_module = has_fields and not isinstance(node, tuple)
    module_type = type(node).__name__ if is_module else ""
    return [t for _, child in children for t in _module_types(child, module_type)]
