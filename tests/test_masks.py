"""Masks: right on real models, never silent, and readable before training."""

import re

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


@pytest.mark.needs_extras
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
        spare = role in ("bias", "norm_scale") or (
            role == "other" and len(row.shape) < 2
        )
        assert row.multiplier == (0.0 if spare else 1.0), row
    # One step without gradients: what decays moves, what is spared does not.
    params = jax.tree.map(lambda p: np.ones(p.shape, np.float32), zoo.params)
    zeros = jax.tree.map(np.zeros_like, params)
    part = dx.independent_decay(0.25, mask=masks.no_bias_or_norm)
    updates, _ = part.update(zeros, part.init(params), params)
    moved = [float(np.mean(u)) for u in jax.tree.leaves(updates)]
    assert moved == pytest.approx([-0.25 * row.multiplier for row in rows])


@pytest.mark.needs_extras
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
    "a glob": ([("*.kernel", True)], r"'\*.kernel' is no regular .* write '.\*', not"),
    "shadowed": (
        [(".*kernel", True), ("block_0/attn/kernel", False)],
        r"'block_0/attn/kernel' never acts: earlier rules match all",
    ),
    "twice the same": ([(".*kernel", True), (".*kernel", False)], r"never acts"),
    "no regular expression": ([("(", True)], r"'\(' is no regular expression"),
    "no pair": (["kernel"], r"a rule is a pair \(pattern, multiplier\), got 'kernel'"),
    "no string": ([(1, True)], r"a pattern is a string, got 1 of type int"),
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
    "no list": (None, r"rules must be a list of pairs .* got None of type NoneType"),
    "one rule": (".*kernel", r"rules must be a list of pairs .* got '.\*kernel'"),
}


@pytest.mark.parametrize("kind", BAD_RULES)
def test_bad_rules(kind):
    rules, text = BAD_RULES[kind]
    with pytest.raises((TypeError, ValueError), match=f"masks.by_path: .*{text}"):
        masks.by_path(rules, default=False)(PARAMS)
    with pytest.raises((TypeError, ValueError), match=text):
        dx.decoupled_decay(0.1, mask=masks.by_path(rules, default=False)).init(PARAMS)


def test_the_cure_in_the_error_cures():
    for pattern in ("kernel|scale", "^kernel$", "attn"):
        with pytest.raises(ValueError, match="to match") as error:
            masks.by_path([(pattern, True)], default=False)(PARAMS)
        said = re.search("write '(.*)' to match (.*)[.]", str(error.value))
        cure, path = said.groups()
        found = multipliers(masks.by_path([(cure, True)], default=False))
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
    text = r"no rule matches block_0/attn/bias and 6 more. .* say default=False"
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
    with pytest.raises(ValueError, match=r"masks.all_of: needs at least one mask"):
        masks.all_of()
    with pytest.raises(ValueError, match=r"masks.invert: the multiplier of .* is 2.0"):
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
    "masks.describe: act is no parameter, but <function": (
        lambda: masks.describe(True, {"act": lambda x: x})
    ),
    "masks.by_role: got one bare array without leaf paths.": (
        lambda: masks.describe(masks.by_role(), jnp.ones(2))
    ),
}


@pytest.mark.parametrize("text", MISUSED)
def test_misuse_is_told_by_name(text):
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        MISUSED[text]()


def test_a_maker_of_masks_that_nobody_called():
    with pytest.raises(TypeError) as error:
        dx.decoupled_decay(0.1, mask=masks.by_role).init(PARAMS)
    assert "call it first: mask=masks.by_role()" in error.value.__notes__[0]


def test_combinators_of_tracers_of_other_dtypes():
    """Under the strict promotion of the suite; a growing decay is never made."""

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


def test_strengths_of_roles_can_be_traced():
    @jax.jit
    def moved(kernel, factor):
        mask = masks.any_of(masks.scale(masks.by_role(kernel=kernel), factor), False)
        part = dx.decoupled_decay(1.0, mask=masks.all_of(mask, True))
        return part.update(ZEROS, part.init(PARAMS), PARAMS)[0]

    updates = moved(jnp.float32(0.5), jnp.float32(0.5))
    np.testing.assert_allclose(updates["block_0"]["attn"]["kernel"], 0.25)
    np.testing.assert_allclose(updates["norm"]["scale"], 0.0)


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


def test_a_bare_array_is_refused_with_the_cure():
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
        "role other, a matrix or more",
        "embed/embedding      (5, 2)     float32  embedding            1  "
        "role embedding",
        "norm/bias            (2,)       float32  bias                 0  role bias",
        "norm/scale           (2,)       float32  norm_scale           0  "
        "role norm_scale",
        "temperature          ()         float32  other ?              0  "
        "role other, less than a matrix",
        "decayed: 20 numbers in 4 parameters; spared: 9 numbers in 5 parameters",
        "?: no name tells the role; see that the decision is meant",
    ]
    assert repr(described) == str(described)  # a REPL shows the table
    row = described.rows[0]
    assert (row.path, row.shape, row.role) == ("block_0/attn/bias", (1, 2), "bias")
    assert row.multiplier == 0.0
    assert [row.path for row in described.rows if not row.sure] == [
        "cls",
        "temperature",
    ]
    assert (described.decayed, described.spared) == (20, 9)


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


def test_a_dtype_is_no_parameter():
    with pytest.raises(TypeError, match=r"masks.describe: act/dtype is no parameter"):
        dx.masks.describe(True, {"act": {"dtype": jnp.float32}, "kernel": jnp.ones(2)})
