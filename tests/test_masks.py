"""Masks: correct on real models, errors for wrong rules, a table to check."""

import copy
import operator
import pickle
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import model_zoo
import numpy as np
import optax
import pytest
from catalogue import DECAYS, first_of_each, parametrize, Row

import decayax as dx
from decayax import masks


PARAMS = {
    "embed": {"embedding": jnp.ones((5, 2))},
    "block_0": {"attn": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((1, 2))}},
    "block_1": {"attn": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((1, 2))}},
    "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
    "cls": jnp.ones((1, 1, 2)),
    "temperature": jnp.ones(()),
}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def multipliers(mask, params=PARAMS):
    return {row.path: row.multiplier for row in masks.describe(mask, params).rows}


# --- roles, on real models --------------------------------------------------------


@pytest.mark.needs_flax
@pytest.mark.relaxed("flax, equinox: their initialisers")
@pytest.mark.parametrize("name", model_zoo.MODELS)
def test_no_leaf_of_a_real_model_has_a_wrong_role(name):
    if name.startswith("equinox"):
        pytest.importorskip("equinox")
    zoo = model_zoo.MODELS[name]()
    rows = masks.describe(masks.no_bias_or_norm, zoo.params).rows
    found = {row.path: row.role for row in rows}
    wrong = {p: (found.get(p), r) for p, r in zoo.roles.items() if found.get(p) != r}
    assert not wrong
    for row in rows:
        role = zoo.roles[row.path]
        is_small_other = role == "other" and len(row.shape) < 2
        excluded = role in ("bias", "norm_scale") or is_small_other
        assert row.multiplier == (0.0 if excluded else 1.0), row
    # The update of a leaf is the gradient itself if and only if the leaf is excluded.
    part = dx.independent_decay(0.25, mask=masks.no_bias_or_norm)
    step = jax.make_jaxpr(lambda g, p: part.update(g, part.init(p), p)[0])
    traced = step(zoo.params, zoo.params).jaxpr
    grads = traced.invars[: len(rows)]
    unchanged = [x is g for x, g in zip(traced.outvars, grads, strict=True)]
    assert unchanged == [row.excluded for row in rows]


@pytest.mark.needs_flax
@pytest.mark.relaxed("flax")
def test_roles_under_nnx_optimizer():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 3, rngs=rngs)
            self.ln_1 = nnx.LayerNorm(3, rngs=rngs)

    model = Net(nnx.Rngs(0))
    zeros = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    before = np.asarray(model.linear.kernel[...])
    transform = dx.sgdw(0.5, weight_decay=0.2, mask=masks.no_bias_or_norm)
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    nnx.jit(lambda m, o, g: o.update(m, g))(model, optimizer, zeros)
    np.testing.assert_allclose(model.linear.kernel[...], 0.9 * before, rtol=1e-6)
    np.testing.assert_allclose(model.ln_1.scale[...], 1.0)


def test_by_role_gives_each_role_its_strength():
    mask = masks.by_role(kernel=0.5, embedding=False, bias=2, norm_scale=3.0, other=4)
    assert multipliers(mask) == {
        "embed/embedding": 0.0,
        "block_0/attn/kernel": 0.5,
        "block_0/attn/bias": 2.0,
        "block_1/attn/kernel": 0.5,
        "block_1/attn/bias": 2.0,
        "norm/scale": 3.0,
        "norm/bias": 2.0,
        "cls": 4.0,
        "temperature": 4.0,
    }
    default = multipliers(masks.no_bias_or_norm)
    assert default["cls"] == 1.0  # other: a matrix or more
    assert default["temperature"] == 0.0
    assert default == multipliers(masks.by_role())


T, P, S = "token", "position", "ssm"
d, pair, table = jnp.ones(8), jnp.ones((8, 2)), {"embedding": jnp.ones((5, 8))}
# Parameters of the code of timm, Swin, DINOv2, CLIP, BERT, T5, T5X, SAM, Mamba, Vision
# Mamba, VMamba, S4, S5, RG-LRU, LRU, RWKV, and the group of each. None: no group.
GROUPS = {
    "cls_token": (jnp.ones((1, 1, 8)), T),
    "dist_token": (jnp.ones((1, 1, 8)), T),
    "register_tokens": (jnp.ones((1, 4, 8)), T),
    "decoder": ({"mask_token": jnp.ones((1, 1, 8))}, T),
    "class_embedding": (d, T),
    "probe": (jnp.ones((1, 1, 8)), T),
    "query_tokens": (jnp.ones((1, 4, 8)), T),
    "pos_embed": (jnp.ones((1, 5, 8)), P),
    "position_embeddings": (table, P),
    "wpe": (table, P),
    "pos_embedding": (jnp.ones((1, 5, 8)), P),
    "relative_position_bias_table": (pair, P),
    "relative_attention_bias": (table, P),
    "relpos_bias": ({"rel_embedding": pair}, P),
    "rel_pos_h": (jnp.ones((5, 8)), P),
    "mixer": ({"A_log": pair, "D": d, "dt_bias": d}, S),
    "backward": ({"A_b_log": pair, "D_b": d}, S),
    "vmamba": ({"A_logs": pair, "Ds": d}, S),
    "s4": ({"log_dt": d, "A_imag": pair, "log_A_real": pair, "D": d}, S),
    "s5": ({"Lambda_re": d, "Lambda_im": d, "log_step": d, "D": d}, S),
    "rg_lru": ({"a_param": d}, S),
    "lru": ({"nu_log": d, "theta_log": d, "gamma_log": d}, S),
    "rwkv": ({"time_decay": d, "time_first": d, "time_mix_k": jnp.ones((1, 1, 8))}, S),
    "word_embeddings": (table, None),
    "token_type_embeddings": (table, None),
    "embed_tokens": (table, None),
    "token_embed": (table, None),
    "vocabulary": ({"token": table}, None),
    "cls_head": ({"kernel": pair}, None),
    "pos_proj": ({"kernel": pair}, None),
    "linear_pos": ({"weight": pair}, None),
    "in_proj": ({"kernel": pair, "bias": d}, None),
    "vector": ({"D": d}, None),
    "temperature": (d, None),
}
MODEL = {name: tree for name, (tree, _) in GROUPS.items()}


def group_of(path):
    return GROUPS[path.split("/")[0]][1]


def test_the_groups_within_the_roles():
    """A group that is not given decays as its role; a given one as it says."""
    before = multipliers(masks.no_bias_or_norm, MODEL)
    for group in (T, P, S):
        found = multipliers(masks.by_role(**{group: 0.25}), MODEL)
        expected = {p: 0.25 if group_of(p) == group else m for p, m in before.items()}
        assert found == expected
    assert before["wpe/embedding"] == before["cls_token"] == 1.0
    assert (
        before["mixer/D"] == before["mixer/dt_bias"] == before["class_embedding"] == 0
    )
    tables = multipliers(masks.by_role(embedding=0.5), MODEL)
    assert tables["wpe/embedding"] == tables["word_embeddings/embedding"] == 0.5


def test_no_bias_norm_or_token_excludes_the_groups():
    before = multipliers(masks.no_bias_or_norm, MODEL)
    found = multipliers(masks.no_bias_norm_or_token, MODEL)
    assert found == {p: 0.0 if group_of(p) else m for p, m in before.items()}
    by_role = masks.by_role(token=False, position=False, ssm=False)
    assert found == multipliers(by_role, MODEL)
    rules = {r.path: r.rule for r in masks.describe(by_role, MODEL).rows}
    assert rules["cls_token"] == "role token"
    assert rules["wpe/embedding"] == "role position"
    assert rules["mixer/dt_bias"] == "role ssm"


# --- rules ------------------------------------------------------------------------


def test_the_first_matching_rule_wins():
    mask = masks.by_path([("block_0/.*", 0.25), (".*/kernel", True)], default=False)
    assert multipliers(mask) == {
        **dict.fromkeys(multipliers(None), 0.0),
        "block_0/attn/kernel": 0.25,
        "block_0/attn/bias": 0.25,
        "block_1/attn/kernel": 1.0,
    }


def test_a_strength_may_grow_with_depth():
    mask = masks.by_path(
        [(r"block_(\d+)/.*kernel", lambda m: 0.1 * (1 + int(m[1])))],
        default=masks.invert(True),
    )
    found = multipliers(mask)
    assert found["block_0/attn/kernel"] == pytest.approx(0.1)
    assert found["block_1/attn/kernel"] == pytest.approx(0.2)
    assert found["norm/scale"] == 0.0


def test_the_default_may_be_another_mask():
    mask = masks.by_path([("embed/.*", False)], default=masks.no_bias_or_norm)
    expected = {**multipliers(masks.no_bias_or_norm), "embed/embedding": 0.0}
    assert multipliers(mask) == expected


BAD_RULES = {
    "matches nothing": (
        [("blokc_0/attn/kernel", True)],
        r"'blokc_0/attn/kernel' matches no parameter. The nearest paths are block_0/at",
    ),
    "part of a path": (
        [("kernel", True)],
        r"'kernel' matches no .* write '.\*\(kernel\).\*' to match block_0/attn/kernel",
    ),
    "anchored": (
        [("^norm|scale$", True)],
        r"matches no .* write '.\*\(norm|scale\).\*' to match norm/bias",
    ),
    "a glob": (
        [("*.kernel", True)],
        r"'\*.kernel' is not a valid regular expression: .* Use '.\*' \(not '\*'\)",
    ),
    "shadowed": (
        [(".*kernel", True), ("block_0/attn/kernel", False)],
        r"'block_0/attn/kernel' has no effect: earlier rules match all",
    ),
    "twice the same": ([(".*kernel", True), (".*kernel", False)], r"has no effect"),
    "not a regular expression": (
        [("(", True)],
        r"'\(' is not a valid regular expression",
    ),
    "not a pair": (
        ["kernel"],
        r"a rule must be a pair \(pattern, multiplier\), got 'kernel'",
    ),
    "not a string": ([(1, True)], r"a pattern must be a string, got 1 of type int"),
    "negative": (
        [(".*kernel", -1.0)],
        r"the multiplier of the rule '.\*kernel' must be >= 0, got -1.0",
    ),
    "a word": (
        [(".*kernel", "yes")],
        r"must be a number, got 'yes' of type str. Write T",
    ),
    "a bad function": (
        [("b.*kernel", lambda m: -1)],
        r"the rule 'b.\*kernel' gives block_0/attn/kernel must be >= 0, got -1",
    ),
    "not a list": (None, r"rules must be a list of pairs .* got None of type NoneType"),
    "a dict": ({".*": True}, r"got {'.\*': True} .*Pass list\(rules.items\(\)\)"),
    "one rule": (".*kernel", r"rules must be a list of pairs .* got '.\*kernel'"),
}


@pytest.mark.parametrize("kind", BAD_RULES)
def test_bad_rules(kind):
    rules, text = BAD_RULES[kind]
    with pytest.raises((TypeError, ValueError), match=f"masks.by_path: .*{text}"):
        masks.by_path(rules, default=False)(PARAMS)
    with pytest.raises((TypeError, ValueError), match=text):
        dx.decoupled_decay(0.1, mask=masks.by_path(rules, default=False)).init(PARAMS)


def test_the_pattern_that_the_error_suggests_matches():
    for pattern in ("kernel|scale", "^kernel$", "attn"):
        with pytest.raises(ValueError, match="to match") as error:
            masks.by_path([(pattern, True)], default=False)(PARAMS)
        hint = re.search("write '(.*)' to match (.*)[.]", str(error.value))
        suggested, path = hint.groups()
        found = multipliers(masks.by_path([(suggested, True)], default=False))
        assert found[path] == 1.0
        expected = re.compile(pattern.strip("^$"))
        assert {p for p, m in found.items() if m} == set(filter(expected.search, found))


def test_an_error_in_a_function_of_the_match_names_the_rule():
    mask = masks.by_path([("cls", lambda m: int(m[1]))], default=False)
    with pytest.raises(IndexError) as error:
        mask(PARAMS)
    (note,) = error.value.__notes__
    assert note.startswith(
        "masks.by_path: raised by the multiplier that the rule 'cls'"
    )


def test_patterns_may_be_compiled():
    mask = masks.by_path([(re.compile(".*KERNEL", re.IGNORECASE), True)], default=False)
    assert multipliers(mask)["block_0/attn/kernel"] == 1.0


def test_what_no_rule_covers_is_an_error():
    mask = masks.by_path([(".*/kernel", True)])
    text = r"no rule matches block_0/attn/bias and 6 more. .* pass default=False"
    with pytest.raises(ValueError, match=text):
        mask(PARAMS)
    mask = masks.by_path([("(?!cls).*", True)])
    with pytest.raises(ValueError, match=r"no rule matches cls. Add a rule"):
        mask(PARAMS)


def test_the_default_sees_what_the_rules_leave():
    rest = masks.by_path([("b", 0.5)])
    mask = masks.by_path([("a", True)], default=rest)
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    assert multipliers(mask, params) == {"a": 1.0, "b": 0.5}
    mask = masks.by_path([("a", True)], default={"b": 0.25})
    assert multipliers(mask, params) == {"a": 1.0, "b": 0.25}


@pytest.mark.parametrize("default", [-1, "no", {"a": -1.0}])
def test_a_bad_default_is_refused_at_once(default):
    with pytest.raises(
        (TypeError, ValueError), match=r"masks.by_path: the mask's mult"
    ):
        masks.by_path([(".*", True)], default=default)


def test_a_tree_without_parameters_needs_no_rule():
    for mask in (masks.by_path([("a", True)]), masks.no_bias_or_norm):
        assert mask({}) == {}
        assert mask({"b": None}) == {"b": None}


KERNELS = {"b": {"kernel": jnp.ones(2)}}


def test_below_a_masked_node_a_rule_may_match():
    mask = masks.by_path([("a/kernel", True), ("b/kernel", 0.5)])
    assert multipliers(mask, {"a": optax.MaskedNode(), **KERNELS}) == {"b/kernel": 0.5}
    with pytest.raises(ValueError, match=r"'a/kernel' matches no parameter"):
        mask(KERNELS)


@pytest.mark.parametrize(
    ("pattern", "may"),
    [
        ("layer_1/w", True),
        ("layer_1", True),
        ("layer_./w", True),
        ("(x|layer_1)/w", True),
        ("x*layer_1/w", True),
        ("xx?layer_1", False),
        ("y|layer_1/w", True),
        (".*", True),
        ("layer", False),
        ("layer_2/w", False),
        ("tpyo", False),
        ("tpyo/.*", False),
        ("layer_1/./w", True),
        ("layer_1/ab.*", True),
        ("layer_12", False),
        ("layerx{0,1}_1/w", True),
        ("layer_1x{0,1}/w", True),
        ("layerx{0,1}_2/w", True),  # not clear from its literal beginning
        ("layer_2x{0,1}/w", False),
    ],
)
def test_only_what_may_be_below_a_masked_node_is_excused(pattern, may):
    params = {"layer_1": optax.MaskedNode(), **KERNELS}
    mask = masks.by_path([("b/kernel", True), (pattern, 0.5)])
    if may:
        assert multipliers(mask, params) == {"b/kernel": 1.0}
    else:
        with pytest.raises(ValueError, match=r"matches no parameter"):
            mask(params)


# --- combinators ------------------------------------------------------------------


def test_combinators():
    kernels = masks.by_path([(".*/kernel", True)], default=False)
    first = {**dict.fromkeys(PARAMS, False), "block_0": True}
    both = multipliers(masks.all_of(kernels, first))
    either = multipliers(masks.any_of(kernels, first))
    assert [p for p, m in both.items() if m] == ["block_0/attn/kernel"]
    assert [p for p, m in either.items() if m] == [
        "block_0/attn/bias",
        "block_0/attn/kernel",
        "block_1/attn/kernel",
    ]
    assert multipliers(masks.invert(kernels)) == {
        path: 1.0 - m for path, m in multipliers(kernels).items()
    }
    half = multipliers(masks.scale(kernels, 0.5))
    assert half == {path: 0.5 * m for path, m in multipliers(kernels).items()}
    assert multipliers(masks.all_of(masks.scale(None, 0.5), masks.scale(None, 0.5)))[
        "cls"
    ] == pytest.approx(0.25)


def test_combinators_refuse_what_has_no_meaning():
    with pytest.raises(ValueError, match=r"masks.all_of: pass at least one mask"):
        masks.all_of()
    with pytest.raises(
        ValueError,
        match=r"masks.invert: the multiplier of .* must be <= 1, got 2.0. Pass a",
    ):
        masks.invert(2.0)(PARAMS)


MISUSED = {
    "masks.all_of: got a list of masks. Write masks.all_of(a, b), not [a, b].": (
        lambda: masks.all_of([masks.no_bias_or_norm, masks.no_bias_or_norm])
    ),
    "masks.any_of: the mask's multiplier at (root) must be >= 0, got -1.0.": (
        lambda: masks.any_of(True, -1.0)
    ),
    "masks.scale: factor must be >= 0, got -1.0. Write True, False or one": (
        lambda: masks.scale(None, -1.0)
    ),
    "masks.by_role: kernel must be a number, got 'yes' of type str.": (
        lambda: masks.by_role(kernel="yes")
    ),
    "masks.describe: the mask's multiplier at (root) must be >= 0, got -2.0.": (
        lambda: masks.describe(-2.0, PARAMS)
    ),
    "masks.describe: act is not a parameter, but <function": (
        lambda: masks.describe(True, {"act": lambda x: x})
    ),
    "masks.by_role: got one bare array without leaf paths.": (
        lambda: masks.describe(masks.by_role(), jnp.ones(2))
    ),
}


@pytest.mark.parametrize("text", MISUSED)
def test_misuse_raises_an_error_with_the_public_name(text):
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        MISUSED[text]()


def test_a_function_that_makes_masks_must_be_called():
    with pytest.raises(TypeError) as error:
        dx.decoupled_decay(0.1, mask=masks.by_role).init(PARAMS)
    assert "call it first: mask=masks.by_role()" in error.value.__notes__[0]


def test_combinators_of_tracers_of_other_dtypes():
    """Strict promotion accepts them, and the complement is never negative."""

    @jax.jit
    def combined(a, b, n):
        larger = masks.any_of(masks.by_role(kernel=a), masks.by_role(kernel=b))
        opposite = masks.invert(masks.by_role(kernel=n, bias=True))
        return larger(PARAMS), opposite(PARAMS)

    larger, opposite = combined(jnp.float32(0.5), jnp.bfloat16(0.25), jnp.int32(3))
    assert larger["block_0"]["attn"]["kernel"] == 0.5
    assert larger["block_0"]["attn"]["kernel"].dtype == jnp.float32
    assert opposite["block_0"]["attn"]["kernel"] == 0.0
    assert opposite["block_0"]["attn"]["bias"] == 0.0
    assert opposite["norm"]["scale"] == 1.0


def test_combinators_of_float64_tracers_stay_float64(x64):
    @jax.jit
    def combined(a, b):
        parts = masks.by_role(kernel=a), masks.by_role(kernel=b)
        joined = masks.any_of(*parts), masks.all_of(*parts), masks.invert(parts[0])
        return [mask(PARAMS)["block_0"]["attn"]["kernel"] for mask in joined]

    found = combined(jnp.float64(0.1), jnp.float64(1 / 3))
    assert [x.dtype for x in found] == [jnp.float64] * 3
    assert [float(x) for x in found] == [1 / 3, 0.1 * (1 / 3), 1.0 - 0.1]


def test_strengths_of_roles_can_be_traced():
    @jax.jit
    def moved(kernel, factor):
        mask = masks.any_of(masks.scale(masks.by_role(kernel=kernel), factor), False)
        part = dx.decoupled_decay(1.0, mask=masks.all_of(mask, True))
        return part.update(ZEROS, part.init(PARAMS), PARAMS)[0]

    updates = moved(jnp.float32(0.5), jnp.float32(0.5))
    np.testing.assert_allclose(updates["block_0"]["attn"]["kernel"], 0.25)
    np.testing.assert_allclose(updates["norm"]["scale"], 0.0)


# --- pickling, equality, repr -----------------------------------------------------

TREE = {**dict.fromkeys(PARAMS, True), "block_0": 0.5, "cls": jnp.float32(0.25)}
LENGTH = operator.methodcaller("end")  # of the path: a function that pickles
PICKLED = {
    "no_bias_or_norm": masks.no_bias_or_norm,
    "no_bias_norm_or_token": masks.no_bias_norm_or_token,
    "groups": masks.by_role(token=0.5, position=False),
    "by_role": masks.by_role(kernel=0.5, bias=jnp.float32(0.25), other=True),
    "by_path": masks.by_path(
        [("block_0/.*", 0.5), (re.compile(".*/KERNEL", re.IGNORECASE), True)],
        default=masks.no_bias_or_norm,
    ),
    "a function of the match": masks.by_path([(".*kernel", LENGTH)], default=False),
    "trees": masks.all_of(TREE, True, None),
    "any_of": masks.any_of(masks.by_role(bias=0.1), {**TREE, "norm": False}),
    "nested": masks.invert(masks.scale(masks.all_of(masks.no_bias_or_norm, TREE), 0.5)),
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLED)
def test_masks_can_be_pickled_and_copied(kind):
    mask = PICKLED[kind]
    for twin in (pickle.loads(pickle.dumps(mask)), copy.deepcopy(mask)):
        assert twin.decide(PARAMS) == mask.decide(PARAMS)
        assert repr(twin) == repr(mask)


@pytest.mark.parametrize("kind", PICKLED)
def test_a_pickled_mask_names_public_modules_only(kind):
    """Private files may move."""
    pickled = pickle.dumps(PICKLED[kind])
    named = re.findall(rb"decayax[\w.]*", pickled)
    assert set(named) == {b"decayax.masks"}


def test_a_ready_made_mask_is_itself_after_pickling():
    for mask in (masks.no_bias_or_norm, masks.no_bias_norm_or_token):
        assert pickle.loads(pickle.dumps(mask)) is mask
        assert copy.deepcopy({"mask": mask})["mask"] is mask
    assert masks.no_bias_or_norm != masks.no_bias_norm_or_token


def test_masks_decide_the_same_in_another_process():
    script = (
        "import pickle, sys; masks, params = pickle.load(sys.stdin.buffer); "
        "decided = [mask.decide(params) for mask in masks]; "
        "pickle.dump(decided, sys.stdout.buffer)"
    )
    sent = pickle.dumps((list(PICKLED.values()), PARAMS))
    there = subprocess.run(
        [sys.executable, "-c", script],
        input=sent,
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    here = [mask.decide(PARAMS) for mask in PICKLED.values()]
    assert pickle.loads(there.stdout) == here


def test_masks_made_alike_are_equal():
    assert masks.by_role(bias=0.5) == masks.by_role(bias=0.5)
    assert masks.by_role(bias=0.5) != masks.by_role(bias=0.25)
    assert masks.by_role(bias=0.5) != masks.no_bias_or_norm
    assert len({masks.all_of(TREE), masks.all_of(TREE), masks.any_of(TREE)}) == 2


EXPRESSIONS = [
    "masks.no_bias_or_norm",
    "masks.no_bias_norm_or_token",
    "masks.by_role(kernel=True, embedding=0.5, bias=False, norm_scale=0, other=None)",
    "masks.by_path([('.*/bias', 0.1), ('cls', True)], default=masks.no_bias_or_norm)",
    "masks.by_path([(re.compile('A', re.IGNORECASE), 1)], default=False)",
    "masks.all_of(masks.no_bias_or_norm, {'a': True, 'b': 0.5}, None)",
    "masks.any_of(masks.invert(masks.scale(False, 0.5)), True)",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_the_repr_of_a_mask_makes_the_mask(text):
    mask = eval(text)
    assert repr(mask) == text
    assert eval(repr(mask)) == mask


def test_a_long_repr_is_shortened():
    rules = [(f"block_{n}/.*", n) for n in range(1000)]
    mask = masks.by_path(rules, default=dict.fromkeys(map(str, range(1000)), True))
    assert repr(mask).startswith("masks.by_path([('block_0/.*', 0), ('block_1/.*', 1)")
    assert "..." in repr(mask)
    assert len(repr(mask)) < 300
    assert len(repr(masks.invert(masks.invert(mask)))) < 300
    assert len(repr(masks.by_path([("x" * 1000, True)]))) < 300


# --- in every transform, and in optax ---------------------------------------------


@parametrize(first_of_each(DECAYS))
def test_masks_work_in_every_transform(row: Row):
    mask = masks.scale(masks.no_bias_or_norm, 0.5)
    grads = jax.tree.map(lambda p: 0.3 * jnp.ones_like(p), PARAMS)
    tree = mask(PARAMS)
    part, same = row.part(0.1, mask), row.part(0.1, tree)
    got, _ = jax.jit(part.update)(grads, part.init(PARAMS), PARAMS)
    expected, _ = jax.jit(same.update)(grads, same.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_masks_work_in_optax():
    ours = dx.decoupled_decay(1.0, mask=masks.no_bias_or_norm)
    expected, _ = ours.update(ZEROS, ours.init(PARAMS), PARAMS)
    theirs = optax.add_decayed_weights(1.0, mask=masks.no_bias_or_norm)
    got, _ = theirs.update(ZEROS, theirs.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, got, expected)

    labels = {key: "a" if key.startswith("block") else "b" for key in PARAMS}
    kernels = masks.by_path([(".*/kernel", True)], default=False)
    group = dx.decoupled_decay(1.0, mask=kernels)
    split = optax.partition({"a": group, "b": group}, labels)
    got, _ = split.update(ZEROS, split.init(PARAMS), PARAMS)
    np.testing.assert_allclose(got["block_1"]["attn"]["kernel"], 1.0)
    np.testing.assert_array_equal(got["cls"], 0.0)


def test_a_bare_array_is_refused_with_a_hint():
    wrong = optax.inject_hyperparams(dx.decoupled_decay)(
        0.1, mask=masks.no_bias_or_norm
    )
    with pytest.raises(
        ValueError, match=r"masks.no_bias_or_norm: .*static_args='mask'"
    ):
        wrong.init(PARAMS)
    right = optax.inject_hyperparams(dx.decoupled_decay, static_args="mask")(
        0.1, mask=masks.no_bias_or_norm
    )
    updates, _ = right.update(ZEROS, right.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["cls"], 0.1)


# --- describe ---------------------------------------------------------------------


def test_describe_is_a_table_and_plain_data():
    described = masks.describe(masks.no_bias_or_norm, PARAMS)
    assert str(described).splitlines() == [
        "parameter            shape      dtype    role        multiplier  rule",
        "block_0/attn/bias    (1, 2)     float32  bias                 0  role bias",
        "block_0/attn/kernel  (2, 2)     float32  kernel               1  role kernel",
        "block_1/attn/bias    (1, 2)     float32  bias                 0  role bias",
        "block_1/attn/kernel  (2, 2)     float32  kernel               1  role kernel",
        "cls                  (1, 1, 2)  float32  other ?              1  "
        "role other, 2 or more axes",
        "embed/embedding      (5, 2)     float32  embedding            1  "
        "role embedding",
        "norm/bias            (2,)       float32  bias                 0  role bias",
        "norm/scale           (2,)       float32  norm_scale           0  "
        "role norm_scale",
        "temperature          ()         float32  other ?              0  "
        "role other, fewer than 2 axes",
        "decayed: 20 numbers in 4 parameters; excluded: 9 numbers in 5 parameters",
        "?: no name determines the role; check these decisions",
    ]
    assert repr(described) == str(described)  # a REPL shows the table
    row = described.rows[0]
    assert (row.path, row.shape, row.role) == ("block_0/attn/bias", (1, 2), "bias")
    assert row.multiplier == 0.0
    assert [row.path for row in described.rows if not row.sure] == [
        "cls",
        "temperature",
    ]
    assert (described.decayed, described.excluded) == (20, 9)


def test_describe_is_a_table_of_html():
    params = {"<b>": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    html = masks.describe(masks.by_path([("<b>.*", 0.5)]), params)._repr_html_()
    assert html.count("<tr>") == 3
    assert "<tr><th>parameter</th><th>shape</th>" in html
    assert "<td>&lt;b&gt;/kernel</td><td>(2, 2)</td>" in html
    assert "<td>path &lt;b&gt;.*</td></tr>" in html
    assert "<p>decayed: 6 numbers in 2 parameters; excluded: 0 numbers in 0" in html
    assert "<b>" not in html
    assert "<p>?: no name" in masks.describe(None, {"x": jnp.ones(2)})._repr_html_()


def test_describe_names_the_rule_that_matched():
    mask = masks.by_path([("block_0/.*", 0.5)], default=masks.no_bias_or_norm)
    rules = {row.path: row.rule for row in masks.describe(mask, PARAMS).rows}
    assert rules["block_0/attn/bias"] == "path block_0/.*"
    assert rules["norm/scale"] == "default, role norm_scale"


@pytest.mark.parametrize("mask", [None, True, lambda p: jax.tree.map(lambda _: 1, p)])
def test_describe_takes_any_mask(mask):
    assert set(multipliers(mask).values()) == {1.0}
    shapes = jax.eval_shape(lambda: PARAMS)
    assert multipliers(mask, shapes) == multipliers(mask)


def test_describe_shows_the_traced():
    seen = []

    @jax.jit
    def look(strength):
        seen.append(str(masks.describe(masks.by_role(kernel=strength), PARAMS)))
        return strength

    look(jnp.float32(1.0))
    assert "traced" in seen[0]


def test_a_dtype_is_not_a_parameter():
    with pytest.raises(
        TypeError, match=r"masks.describe: act/dtype is not a parameter"
    ):
        dx.masks.describe(True, {"act": {"dtype": jnp.float32}, "kernel": jnp.ones(2)})
