"""The rules for roles: kernel, embedding, bias, norm scale or other.

Shapes mislead: attention biases are matrices, and stacked layers give norm scales
another axis. So names decide first, the number of axes last: see `by_role`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from decayax.masks._stacks import Shape
from decayax.masks._words import (
    ATTENTION_WORD,
    AVERAGE,
    AVERAGE_PAIR,
    BIAS,
    EMBEDDING,
    has_two_axes,
    is_bias,
    is_plain_norm,
    is_position,
    is_shift,
    is_token,
    KERNEL,
    LAYER_WORD,
    LOW_RANK_WORD,
    NORM_SCALE,
    OTHER,
    PART_OF_NAME,
    parts_of,
    POSITION,
    Role,
    role_of_module,
    SCALE_WORD,
    SHIFT_WORD,
    SSM,
    STATE_SPACE,
    STATE_SPACE_LETTER,
    STATE_SPACE_MODULE,
    stem,
    TEMPERATURE_WORD,
    TIME_MIX,
    TIME_MIX_PAIR,
    TOKEN,
    UNKNOWN,
    WEIGHT_WORD,
    without_weight,
    Words,
    words_of,
)


# What the words are for, by example; `role_of` checks both tables.
# The name of a leaf -> its role, for a (4, 4) leaf without a module.
ROLES_OF_LEAVES = {
    KERNEL: "kernel recurrent_kernel W_Q wi weight_hh_l0 in_proj_weight q_proj linear "
    "attn_vec_einsum head qkv w_g g",
    EMBEDDING: "embedding embeddings W_pos pos_enc pos_embedding wte wpe pe codebook "
    "label_emb position_bias_table input_embedding",
    BIAS: "b b0 b_Q bq bias biases bias_hh beta offset shift in_proj_bias rel_pos_bias "
    "embedding_bias pos_bias_u",
    NORM_SCALE: "weight_g scale scales gamma gamma_pre_attn norm norm_weight ln_1 "
    "ln1_scale attention_norm",
    OTHER: "cls cls_token class_token probe temperature lora_a w_lora_b scale_shift "
    "scale_shift_table A_log B D x",
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


class Siblings(NamedTuple):
    """The leaves of one module."""

    names: frozenset[str] = frozenset()
    parts: frozenset[Words] = frozenset()  # of their names
    has_state_space: bool = False
    # By the name without the word for weight or bias.
    biases: Mapping[Words, Shape] = {}
    weights: Mapping[Words, Shape] = {}
    # The shapes that hold one number for each feature: of biases and norm scales.
    vectors: frozenset[Shape] = frozenset()


class Leaf(NamedTuple):
    """What a role follows from."""

    name: str  # its own
    shape: Shape  # of one layer, if the tree shows that layers are stacked
    module: str = ""  # the name of the dict or module that holds it
    module_type: str = ""  # the type of that module, "" if it is a container
    parent: str = ""  # the name of the module around that one
    siblings: Siblings = Siblings()

    @property
    def axes(self) -> int:
        """How many axes are longer than 1: (1, 1, 64) is a vector."""
        return sum(size > 1 for size in self.shape)


def role_of(leaf: Leaf) -> Role:
    """The role of one leaf: by its own name, else as the weight of its module.

    >>> for role, names in ROLES_OF_LEAVES.items():
    ...     for name in names.split():
    ...         assert role_of(Leaf(name, (4, 4))).name == role, name
    >>> for role, modules in ROLES_OF_WEIGHTS.items():
    ...     for module in modules.split():
    ...         found = role_of(Leaf("weight", (4, 4), module))
    ...         assert found[:2] == (role, True), module
    """
    words = words_of(leaf.name)
    has_bias_word = is_bias(words)
    if _is_state_space(leaf):
        return Role(BIAS if has_bias_word else OTHER, has_bias_word, SSM)
    if has_bias_word:
        return Role(BIAS, sure=not _may_be_bias_table(leaf, words))
    if any(map(LOW_RANK_WORD, words)):
        return UNKNOWN
    if is_token(words, leaf.axes):
        return UNKNOWN._replace(group=TOKEN)
    role = _role_by_words(leaf, words)
    owner = words_of(leaf.module)
    if not role.sure and owner[-1:] in (("token",), ("tokens",)):
        # mask_tokens/weight is an embedding; token/weight may be a layer.
        role = UNKNOWN if is_token(owner, leaf.axes) else role
    if role.name in (EMBEDDING, OTHER):
        if is_token(owner, leaf.axes):
            return role._replace(group=TOKEN)
        is_layer = not role.sure and any(map(LAYER_WORD, owner))  # linear_pos
        if is_position(words) or (is_position(owner) and not is_layer):
            return role._replace(group=POSITION)
    return role


def _role_by_words(leaf: Leaf, words: Words) -> Role:
    """The same for a leaf that is not a bias and in no group, except positions."""
    is_scaled, is_shifted = any(map(SCALE_WORD, words)), is_shift(words)
    if is_scaled and any(map(SHIFT_WORD, words)):  # scale_shift_table
        return UNKNOWN
    if is_shifted:
        return _role_of_shift(leaf)
    if is_scaled or words[-1:] == ("g",):
        role = _role_of_scale(leaf, words)
        if role is not None:
            return role
    role = role_of_module(without_weight(words)) or UNKNOWN
    if role.name == NORM_SCALE and (role.sure or not WEIGHT_WORD(words[-1])):
        return Role(NORM_SCALE, role.sure or leaf.axes <= 1)
    if role.name == EMBEDDING:
        if len(leaf.shape) < 2:
            return UNKNOWN
        # class_embedding is a table of labels, or a stack of class tokens.
        is_table = leaf.axes >= 2 and not is_token(words, 1)
        return Role(EMBEDDING, role.sure and is_table)
    if any(map(WEIGHT_WORD, words)):
        return _role_of_weight(leaf, words)
    if role.name == KERNEL and leaf.axes >= 2:
        # attn_temperature is not a layer; gate may be a stack of vectors.
        return Role(KERNEL, sure=LAYER_WORD(words[-1]) is not None)
    return UNKNOWN


def _may_be_bias_table(leaf: Leaf, words: Words) -> bool:
    """Whether a bias may be a table of relative positions: attention_biases.

    >>> [_may_be_bias_table(Leaf(name, (8, 49)), words_of(name))
    ...     for name in ("attention_biases", "pos_bias", "in_proj_bias", "biases")]
    [True, True, False, False]
    """
    if len(leaf.shape) < 2:
        return False
    owner = words_of(leaf.module)
    is_of_table = is_position(owner) and not any(map(LAYER_WORD, owner))
    is_plural = "biases" in words and len(words) > 1
    is_of_attention = any(map(ATTENTION_WORD, words))
    return is_plural or is_of_attention or is_position(words) or is_of_table


def _role_of_shift(leaf: Leaf) -> Role:
    """The role of a leaf that is named b, beta, offset or shift."""
    weight = leaf.siblings.weights.get(stem(leaf.name), ())
    is_of_bias = is_bias(words_of(leaf.module))  # the module Bias of Haiku
    if len(weight) > len(leaf.shape) or is_near_norm(leaf) or is_of_bias:
        return Role(BIAS)
    # In formulas B is a matrix next to A or C, as in state space layers and LoRA.
    letters = [part for part in PART_OF_NAME.findall(leaf.name) if part in "bB"]
    own = parts_of(leaf.name)
    twins = {tuple(x if p == "b" else p for p in own) for x in "ac"}
    is_formula = letters and (letters[0] == "B" or twins & leaf.siblings.parts)
    if is_formula or not leaf.shape:
        return UNKNOWN
    # Not in a norm, beta may be the slope of an activation.
    is_vector = leaf.axes <= 1 and "beta" not in own
    if is_vector or leaf.shape in leaf.siblings.vectors:
        return Role(BIAS)
    return Role(KERNEL if any(map(WEIGHT_WORD, own)) else BIAS, sure=False)


def _role_of_scale(leaf: Leaf, words: Words) -> Role | None:
    """The role of a leaf that is named scale, gamma or g. None: not a scale."""
    # A scale with no axes scales a whole layer, such as a temperature.
    if not leaf.shape:
        return UNKNOWN
    if is_near_norm(leaf):
        return Role(NORM_SCALE)
    if any(map(TEMPERATURE_WORD, words)):
        return UNKNOWN
    if leaf.axes <= 1 or leaf.shape in leaf.siblings.vectors:
        return Role(NORM_SCALE)
    bias = leaf.siblings.biases.get(stem(leaf.name))
    if words[-1] != "g" or words == ("weight", "g") or bias == leaf.shape:
        return Role(NORM_SCALE, sure=False)
    # The gate of a layer is named g, too.
    return None if WEIGHT_WORD(words[0]) else Role(KERNEL, sure=False)


def _role_of_weight(leaf: Leaf, words: Words) -> Role:
    """The role of a leaf that is named as a weight, of a layer or of a norm."""
    own = without_weight(words)
    by_name = role_of_module(own)
    if any(map(LOW_RANK_WORD, words_of(leaf.module))):
        return UNKNOWN
    # The comparison with the bias holds for stacked layers too.
    bias = leaf.siblings.biases.get(stem(leaf.name))
    if bias == leaf.shape and has_two_axes(leaf.name) and len(leaf.shape) >= 2:
        return Role(KERNEL, sure=False)
    if bias == leaf.shape:
        return Role(NORM_SCALE, leaf.axes <= 1 or bias in leaf.siblings.vectors)
    if bias is not None and len(bias) < len(leaf.shape):
        return Role(KERNEL)
    # The name of the leaf can hold that of a module: in_proj_weight.
    of_type = role_of_module(words_of(leaf.module_type))
    default = Role(KERNEL, sure=False) if has_two_axes(leaf.name) else UNKNOWN
    role = of_type or by_name or role_of_module(words_of(leaf.module)) or default
    if has_two_axes(leaf.name) and len(leaf.shape) >= 2:
        return Role(KERNEL, sure=role.name != NORM_SCALE)
    # w_i and w_h of a GRU are known, x_w and mix_w of RWKV are not.
    is_letters = bool(WEIGHT_WORD(words[0])) and all(len(word) == 1 for word in own)
    is_known = not own or by_name is not None or is_letters
    if role.name == NORM_SCALE:
        is_scale = role.sure or leaf.axes <= 1 or is_near_norm(leaf)
        return Role(NORM_SCALE, is_scale and is_known)
    if role.name == EMBEDDING and len(leaf.shape) >= 2:
        return Role(EMBEDDING, role.sure and is_known and leaf.axes >= 2)
    if role.name == KERNEL:
        # A layer may have a vector as its weight: one output. In JAX's libraries with
        # `w` or `kernel`, that is a matrix with a unit axis.
        names = words_of(leaf.module_type or leaf.module)
        is_weight = words in (("weight",), ("weights",))
        is_layer = leaf.axes >= 2 or (is_weight and any(map(LAYER_WORD, names)))
        return Role(KERNEL, role.sure and is_known and is_layer)
    return Role(KERNEL if len(leaf.shape) >= 2 else NORM_SCALE, sure=False)


def is_near_norm(leaf: Leaf) -> bool:
    """Whether it or its module is a plain norm. A known type of the module decides."""
    owner = words_of(leaf.module_type)
    if not role_of_module(owner):
        is_scale = SCALE_WORD(leaf.module)  # {"norm": {"scale": {"weight": ...}}}
        owner = words_of(leaf.parent if is_scale else leaf.module)
    return is_plain_norm(words_of(leaf.name)) or is_plain_norm(owner)


def _is_state_space(leaf: Leaf) -> bool:
    """Whether it is a parameter of a state space: A_log, or D next to it."""
    if STATE_SPACE(leaf.name):
        return True
    names = leaf.siblings.names
    if TIME_MIX(leaf.name):
        return leaf.axes <= 1 or names >= TIME_MIX_PAIR
    if AVERAGE(leaf.name):
        is_average = "ema" in words_of(leaf.module) + words_of(leaf.module_type)
        return is_average or names >= AVERAGE_PAIR
    owners = leaf.module, leaf.module_type, leaf.parent
    is_inside = leaf.siblings.has_state_space or any(map(STATE_SPACE_MODULE, owners))
    return is_inside and STATE_SPACE_LETTER(leaf.name) is not None


def siblings_of(leaves: list[Leaf]) -> Siblings:
    """What the leaves of one module say about each other."""
    words = {leaf.name: words_of(leaf.name) for leaf in leaves}
    biases = [leaf for leaf in leaves if is_bias(words[leaf.name])]
    shifts = [leaf for leaf in leaves if is_shift(words[leaf.name])]
    weights = [leaf for leaf in leaves if any(map(WEIGHT_WORD, words[leaf.name]))]
    vectors = {leaf.shape for leaf in leaves if is_near_norm(leaf)}
    return Siblings(
        names=frozenset(words),
        parts=frozenset(map(parts_of, words)),
        has_state_space=any(map(STATE_SPACE, words)),
        biases={stem(leaf.name): leaf.shape for leaf in shifts + biases},
        weights={stem(leaf.name): leaf.shape for leaf in weights},
        vectors=frozenset(vectors | {leaf.shape for leaf in biases}),
    )
