"""What a parameter is for: its role, read from where it stands in the tree.

Shapes mislead: attention biases are matrices, and stacking layers gives norm scales
another axis. So a role is read from the words of the leaf's own name, then from the
module around it, by its type where the tree has modules (Equinox) or by its name, and
from the bias beside it: a norm's weight has the shape of its bias, a layer's has more
axes, stacked or not. What is left to the number of axes alone is marked as unsure.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from decayax._core.paths import flatten_with_path, is_masked_leaf, Path


KERNEL, EMBEDDING, BIAS, NORM_SCALE, OTHER = ROLES = (
    "kernel",
    "embedding",
    "bias",
    "norm_scale",
    "other",
)
Shape = tuple[int, ...]
Matcher = Callable[[str], Any]


def _matcher(words: str) -> Matcher:
    return re.compile(words).fullmatch


# LayerNorm_0 is two words and a number, layernorm1 one and a number, conv2_d two.
TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
BIAS_WORD = _matcher(r"b|bias|biases|beta|offset|shift")
WEIGHT_WORD = _matcher(r"w|w[a-z]|weight|weights|kernel|kernels")
SCALE_WORD = _matcher(r"scale|scales|gamma|gammas")
NORM_WORD = _matcher(r"ln|bn|gn|rms|subln|.*norms?|.*normali.*|scale")
TABLE_WORD = _matcher(
    r"emb.*|wte|wpe|pe|pos|positions?|positional|shared|table|codebook|bias"
)
LAYER_WORD = _matcher(
    r"conv.*|.*(attention|attn|linear|dense|proj|projection|conv|lstm|gru|rnn|cell|mlp|"
    r"ffn|ff|fc|feedforward|einsum|unembed|experts?|classifier)"
)
PART_WORD = _matcher(
    r"q|k|v|o|qkv|kv|query|key|value|out|output|head|gate|up|down|ih|hh|w[a-z]?"
)


class Role(NamedTuple):
    """What a parameter is for, and whether more than its number of axes says so."""

    name: str
    sure: bool = True


class Leaf(NamedTuple):
    """What a role is read from."""

    name: str  # its own
    around: str  # of the dict or module that holds it
    owner: str  # the type of that module, "" if it is a container
    shape: Shape
    bias: Shape | None  # of the bias beside it
    lettered: bool  # beside an "a": one of the letters of a formula


def roles(tree: Any) -> dict[Path, Role]:
    """The role of every leaf that is not a hole, by path."""
    flat, _ = flatten_with_path(tree)
    owners = _owners(tree, "")
    shapes = {
        path: tuple(np.shape(leaf)) for path, leaf in flat if not is_masked_leaf(leaf)
    }
    steps = {path: _steps(path) for path in shapes}
    names = {(*above, name) for above, name in steps.values()}
    biases = {
        (above, _stem(name)): shapes[path]
        for path, (above, name) in steps.items()
        if _is_bias(name)
    }
    found = {}
    for (path, leaf), owner in zip(flat, owners, strict=True):
        if not is_masked_leaf(leaf):
            above, name = steps[path]
            found[path] = role_of(
                Leaf(
                    name=name,
                    around=next((s for s in reversed(above) if not s.isdigit()), ""),
                    owner=owner,
                    shape=shapes[path],
                    bias=biases.get((above, _stem(name))),
                    lettered=bool({(*above, "a"), (*above, "A")} & names),
                )
            )
    return found


def role_of(leaf: Leaf) -> Role:
    """The role of one leaf: by its own name, else as a weight of what is around it."""
    axes, words = len(leaf.shape), _words(leaf.name)
    if _is_bias(leaf.name):
        return Role(OTHER, sure=False) if leaf.lettered else Role(BIAS)
    if any(map(SCALE_WORD, words)) or leaf.name == "g" or words[1:] == ["g"]:
        return Role(NORM_SCALE) if axes else Role(OTHER, sure=False)
    sort = _sort(words)
    if sort == NORM_SCALE:
        return Role(NORM_SCALE)
    if sort == EMBEDDING and axes >= 2 and words[0] not in ("cls", "class"):
        return Role(EMBEDDING)
    if sort != EMBEDDING and any(map(WEIGHT_WORD, words)):
        return _weight_of(leaf)
    if sort == KERNEL and axes >= 2:
        return Role(KERNEL)
    return Role(OTHER, sure=False)


def _weight_of(leaf: Leaf) -> Role:
    """The role of a leaf that is named as a weight, in whatever sort of layer."""
    if "kernel" in leaf.name.lower():
        return Role(KERNEL)
    if kind := _sort(_words(leaf.owner)):
        return Role(kind)
    if leaf.bias is not None and leaf.bias == leaf.shape:
        return Role(NORM_SCALE)
    if leaf.bias is not None and len(leaf.bias) < len(leaf.shape):
        return Role(KERNEL)
    own = [word for word in _words(leaf.name) if not WEIGHT_WORD(word)]
    if kind := _sort(own) or _sort(_words(leaf.around)):
        return Role(kind)
    return Role(KERNEL if len(leaf.shape) >= 2 else NORM_SCALE, sure=False)


def _sort(words: list[str]) -> str | None:
    """What a name stands for: its last word that tells; None if no word does."""
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
    """bias, in_proj_bias, bias_ih, b, b1, b_Q, bq; not lora_b."""
    words = _words(name)
    if not words or words[0] == "lora":
        return False
    return bool(
        BIAS_WORD(words[0])
        or BIAS_WORD(words[-1])
        or (len(words) == 1 and re.fullmatch(r"b[hiokqv]", words[0]))
    )


def _words(name: str) -> list[str]:
    return [token.lower() for token in TOKEN.findall(name) if not token.isdigit()]


def _stem(name: str) -> tuple[str, ...]:
    """A name without its word for weight or bias: what the two have in common."""
    tokens = [token.lower() for token in TOKEN.findall(name)]
    return tuple(t for t in tokens if not BIAS_WORD(t) and not WEIGHT_WORD(t))


def _steps(path: Path) -> tuple[tuple[str, ...], str]:
    """What is around a leaf, and its own name; keys that are paths are taken apart.

    A leaf in a list has the list's name.
    """
    steps = [step for key in path for step in re.findall(r"\w+", key)]
    named = [i for i, step in enumerate(steps) if not step.isdigit()]
    own = named[-1] if named else len(steps)
    return tuple(steps[:own] + steps[own + 1 :]), "".join(steps[own : own + 1])


def _owners(node: Any, owner: str) -> list[str]:
    """For every leaf, in order, the type of the innermost module that holds it.

    Containers (dicts, lists, tuples, Flax states) are no modules: what is in them is
    known by name. So is what is in an nnx.Param, which tells nothing by its type.
    """
    keyed, _ = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda x: x is not node
    )
    if is_masked_leaf(node) or (len(keyed) == 1 and keyed[0][1] is node):
        return [owner]
    keys = [path[0] for path, _ in keyed]
    fields = all(isinstance(key, jax.tree_util.GetAttrKey) for key in keys)
    owner = type(node).__name__ if fields and not isinstance(node, tuple) else ""
    return [found for _, child in keyed for found in _owners(child, owner)]
