"""What the words in a name mean: bias, scale, norm, table, layer, or a part of one.

A module is named by several words. The last known word decides: ``attn_norm`` is a
norm and ``embed_proj`` is a layer.
"""

import functools
import re
from typing import NamedTuple


KERNEL, EMBEDDING, BIAS = "kernel", "embedding", "bias"
NORM_SCALE, OTHER = "norm_scale", "other"
POSITION, TOKEN, SSM = "position", "token", "ssm"
Words = tuple[str, ...]
cached = functools.lru_cache(maxsize=4096)  # most names occur in each layer

# LayerNorm_0 is two words and a number, layernorm1 one and a number, conv2_d two.
PART_OF_NAME = re.compile(r"(?:Lo|Do|Ve)RA|FiLM|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Words that name a leaf of any module: b, beta, offset; scale, gamma.
BIAS_WORD = re.compile(r"bias|biases").fullmatch
SHIFT_WORD = re.compile(r"beta|offset|shift").fullmatch
SCALE_WORD = re.compile(r"scale|scales|gamma|gammas").fullmatch
TEMPERATURE_WORD = re.compile(r"logits?|softmax|temperature|emb.*").fullmatch
# Words that name the weight of a module: its role is that of the module. wq, wi, wo.
WEIGHT_WORD = re.compile(r"w|w[a-z]|weight|weights|kernel|kernels").fullmatch
LOW_RANK_WORD = re.compile(r"q?lora|ada?lora|dora|vera|lo[hk]r|loha|hada").fullmatch
# Words that name a module, or a leaf without a module.
NORM_WORD = re.compile(r"ln|bn|gn|rms|subln|.*norms?|.*normali.*|scale").fullmatch
TABLE_WORD = re.compile(
    r"emb.*|wte|wpe|pe|pos|positions?|positional|table|codebook"
).fullmatch
LAYER_WORD = re.compile(
    r"conv.*|.*(attention|attn|linear|dense|proj|projection|conv|lstm|gru|rnn|cell|mlp|"
    r"ffn|feedforward|einsum|unembed|experts?|classifier)|ff|fc"
).fullmatch
# Words that name a part of a layer; another word in the name can outweigh them.
PART_WORD = re.compile(
    r"q|k|v|o|qkv|kv|query|key|value|out|output|head|gate|up|down|ih|hh|w[a-z]?"
).fullmatch

# A norm is plain if each word says which norm it is, or where it is. Other norms may
# hold matrices: `SpectralNorm` and `WeightNorm` wrap a layer, `AdaNorm` contains one.
NORM_KIND = r"pre|post|sub|layer|layr|batch|group|instance|rms"
PLAIN_NORM = re.compile(
    rf"ln|bn|gn|rms|subln|({NORM_KIND})*(norms?|normali[sz](e|er|ed|ation))"
).fullmatch
KNOWN_NORM = re.compile(r"ln|bn|gn|rms|layer|batch|group|instance|subln").fullmatch
NORM_PLACE = re.compile(
    rf"[a-z]|{NORM_KIND}|in|input|first|last|final|self|cross|mid|ffw|encoder|decoder|"
    r"block|token"
).fullmatch
CONDITIONED = re.compile(r"(weight|spectral|ada(?!pt?er)|cond|film|modul|styl|spade).*")
# A projection is called an embedding, too: of a patch, of a time, to the tokens.
PROJECTED = re.compile(
    r"patch|patches|pixels?|time|timesteps?|fourier|out|output|head"
).fullmatch
POSITION_WORD = re.compile(r"pos|positions?|positional|wpe|pe|rel|relpos|relative")
# In the name of a table, these say what the positions are: row_embed, temporal_embed.
POSITION_AXIS = re.compile(r"rows?|cols?|columns?|temporal|spatial").fullmatch
ATTENTION_WORD = re.compile(r"\w*(attention|attn)").fullmatch
SPECIAL_TOKEN = re.compile(
    r"cls|class|dist|distill(ation)?|masked|mask|reg|registers?|storage|query|prompt|"
    r"virtual|pad|padding|null|bos|eos|sos|sep|special|learned|learnable|global|memory|"
    r"iou|obj|object|detection|no|not"
).fullmatch
# Names of state space and other linear recurrent layers: S4, S5, Mamba, LRU, RG-LRU,
# RWKV. The second ones mean this only next to the first ones, or in such a module.
STATE_SPACE = re.compile(
    r"a(_b)?_logs?|log_a(_real|_imag)?|(inv_)?a_(real|imag|re|im|param)|dt_bias|"
    r"lambda_(re|im|real|imag|log)|log_lambda|(log|inv)_dt|log_step|"
    r"(nu|theta|gamma)_log|time_(decay|first|faaaa|mix|maa)(_\w+)?",
    re.IGNORECASE,
).fullmatch
STATE_SPACE_LETTER = re.compile(r"A|D|Ds|D_b|Lambda|Delta|dt").fullmatch
# RWKV-7; r_k is a matrix. The moving average of Mega.
TIME_MIX = re.compile(r"x_[rwkva]|[kr]_k|k_a").fullmatch
TIME_MIX_PAIR = frozenset({"x_r", "x_k"})
AVERAGE = re.compile(r"alpha|delta|omega").fullmatch
AVERAGE_PAIR = frozenset({"alpha", "delta"})
STATE_SPACE_MODULE = re.compile(
    r"\w*(ssm|mamba|hippo|state_?space)\w*|s[456]\w*|ssd|(rg_?)?lru", re.IGNORECASE
).fullmatch


class Role(NamedTuple):
    """The role of a parameter."""

    name: str
    sure: bool = True  # False: a guess, or "other"
    group: str | None = None  # a group within the role: token, position or ssm
    axes: int = 0  # how many the parameter has, without those of stacked layers


# What the words of a module do not decide.
UNKNOWN = Role(OTHER, sure=False)


@cached
def words_of(name: str) -> Words:
    """The words of a name in lower case, without numbers.

    >>> words_of("LayerNorm_0"), words_of("in_proj_weight"), words_of("W_Q")
    (('layer', 'norm'), ('in', 'proj', 'weight'), ('w', 'q'))
    """
    return tuple(part for part in parts_of(name) if not part.isdigit())


@cached
def parts_of(name: str) -> Words:
    """The words and numbers of a name in lower case."""
    return tuple(part.lower() for part in PART_OF_NAME.findall(name))


@cached
def stem(name: str) -> Words:
    """A name without its word for weight, scale or bias: the same for those of a layer.

    >>> stem("weight_ih_l0") == stem("bias_ih_l0") == ("ih", "l", "0")
    True
    """
    dropped = BIAS_WORD, SHIFT_WORD, SCALE_WORD, WEIGHT_WORD, ("b", "g").__contains__
    return tuple(p for p in parts_of(name) if not any(is_one(p) for is_one in dropped))


def without_weight(words: Words) -> Words:
    """The words of a leaf without that for a weight: those of its module.

    >>> without_weight(("in", "proj", "weight")), without_weight(("weight", "norm"))
    (('in', 'proj'), ('weight', 'norm'))
    """
    is_module = words and NORM_WORD(words[-1])
    return words if is_module else tuple(w for w in words if not WEIGHT_WORD(w))


def has_two_axes(name: str) -> bool:
    """Whether the leaf is a matrix, or more than one of them."""
    words = words_of(name)
    ends = re.compile("kernels?|embeddings?").fullmatch
    return bool(words and ends(words[-1])) and not is_token(words, 1)


@cached
def role_of_module(words: Words) -> Role | None:
    """The role of a module's weight, by the module's name. None: no word is known.

    >>> [role_of_module(words_of(name)).name for name in ("conv_bn", "bn_conv", "wte")]
    ['norm_scale', 'other', 'embedding']
    """
    if words == ("shared",) or is_position_bias(words):
        return Role(EMBEDDING)
    if words and BIAS_WORD(words[-1]):
        return UNKNOWN
    is_normed = any(map(NORM_WORD, words))
    for word in reversed(words):
        if NORM_WORD(word):
            is_conditioned = any(map(CONDITIONED.fullmatch, words))
            return UNKNOWN if is_conditioned else Role(NORM_SCALE, _is_plain(words))
        if TABLE_WORD(word):
            # ln_emb is the norm after the embedding, linear_pos a layer.
            is_projected = any(PROJECTED(w) or LAYER_WORD(w) for w in words)
            return UNKNOWN if is_normed else Role(EMBEDDING, not is_projected)
        if LAYER_WORD(word):
            # ln_mlp is the norm before the MLP, norm_mlp may be an MLP.
            return UNKNOWN if is_normed else Role(KERNEL)
    if any(map(PART_WORD, words)):
        # lm_head, but not time_mix_k. weight_hh_l0 of torch: l is the layer.
        is_part = len(words[-1]) > 1 and PART_WORD(words[-1]) is not None
        return Role(KERNEL, is_part or all(PART_WORD(w) or w == "l" for w in words))
    return None


def _is_plain(words: Words) -> bool:
    """Whether the weight of a norm of this name is a scale, however many axes it has.

    >>> [_is_plain(words_of(n)) for n in ("LlamaRMSNorm", "norm_out", "SigmaNorm")]
    [True, True, False]
    """
    norms = [word for word in words if NORM_WORD(word) and word != "scale"]
    if not norms or not all(map(PLAIN_NORM, norms)):
        return False
    known = NORM_WORD, NORM_PLACE, LAYER_WORD, PART_WORD, TABLE_WORD
    says_kind = any(map(KNOWN_NORM, words)) or norms[-1] not in ("norm", "norms")
    return says_kind or all(any(is_known(w) for is_known in known) for w in words)


@cached
def is_plain_norm(words: Words) -> bool:
    """Whether it names a norm, other than by the word "scale".

    >>> [is_plain_norm(words_of(n)) for n in ("ln_1", "ln1_scale", "scale", "AdaNorm")]
    [True, True, False, False]
    """
    rest = tuple(word for word in words if not SCALE_WORD(word))
    return role_of_module(rest) == Role(NORM_SCALE)


def is_position_bias(words: Words) -> bool:
    """Whether it names a module with a table of relative positions, as in T5."""
    return BIAS_WORD(words[-1]) is not None and is_position(words) if words else False


def is_position(words: Words) -> bool:
    """Whether it names something about positions.

    >>> names = "rel_pos", "temporal_embed", "bias_table", "temporal_conv"
    >>> [is_position(words_of(name)) for name in names]
    [True, True, True, False]
    """
    is_embedding = any(word.startswith("emb") for word in words)
    is_axis = is_embedding and any(map(POSITION_AXIS, words))
    is_bias_table = words[-1:] == ("table",) and any(map(BIAS_WORD, words))
    return any(map(POSITION_WORD.fullmatch, words)) or is_axis or is_bias_table


@cached
def is_bias(words: Words) -> bool:
    """Whether it has the word "bias", and is not the table or the scale of one.

    >>> names = "in_proj_bias", "bias_ih", "pos_bias_u", "bias_table", "kernel_b"
    >>> [is_bias(words_of(name)) for name in names]
    [True, True, True, False, False]
    """
    return any(map(BIAS_WORD, words)) and not _is_other_thing(words[-1])


@cached
def is_shift(words: Words) -> bool:
    """Whether it names what is added, in a norm or a layer: beta, offset, b_Q, bq.

    >>> names = "offset", "b1", "bq", "b_Q", "dense_b", "shift_proj", "ab"
    >>> [is_shift(words_of(name)) for name in names]
    [True, True, True, True, True, False, False]
    """
    if not words or _is_other_thing(words[-1]):
        return False
    ends = words[0], words[-1]
    is_letter = "b" in ends or (
        len(words) == 1 and re.fullmatch(r"b[hiokqv]", words[0]) is not None
    )
    return is_letter or any(map(SHIFT_WORD, ends))


def _is_other_thing(word: str) -> bool:
    pattern = r"table|emb.*|weights?|kernels?|scales?|gammas?"
    return bool(re.fullmatch(pattern, word) or LAYER_WORD(word))


def is_token(words: Words, axes: int) -> bool:
    """Whether it names one or more special tokens: cls_token, mask_embedding, probe.

    >>> [is_token(words_of(n), 1) for n in ("cls", "dist_token", "class_embedding")]
    [True, True, True]
    >>> [is_token(words_of(n), 2) for n in ("reg_tokens", "tokens", "class_embedding")]
    [True, False, False]
    """
    if words in (("cls",), ("probe",), ("registers",), ("latent", "probe")):
        return True
    if not words or any(w.startswith("emb") for w in words[:-1]):
        return False
    is_special = any(map(SPECIAL_TOKEN, words))
    if words[-1] in ("token", "tokens"):
        return axes <= 1 or is_special
    return axes <= 1 and is_special and words[-1].startswith("emb")
