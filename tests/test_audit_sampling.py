"""What the audit measures: samples, classes and sizes of leaves, and its duration."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from audit_cases import (
    kinds,
    L2_ADAM,
    leaf_of,
    LR,
    MASK,
    no_warning as no_warning,
    ONE,
    plan_of,
    rule,
    WD,
)
from optax import contrib

import decayax as dx


def test_shapes_are_enough_and_large_models_are_sampled():
    shapes = {
        "wte": jax.ShapeDtypeStruct((1_000_000, 1000), jnp.float32),
        "bias": jax.ShapeDtypeStruct((8,), jnp.float32),
    }
    audit = dx.audit(dx.adamw(LR, weight_decay=WD, mask=MASK), shapes)
    assert audit.sampled
    assert audit.elementwise
    bias, wte = audit.leaves
    assert (wte.shape, wte.mode, bias.mode) == ((1_000_000, 1000), "uniform", "none")
    assert wte.rate == pytest.approx(1e-4, rel=1e-5)
    assert "a sample of each leaf" in str(audit)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1000, 1000), (64, 64)),
        ((16, 16), (16, 16)),
        ((1000,), (256,)),
        ((2, 100_000), (2, 2048)),
        ((1, 100_000), (1, 4096)),
        ((100_000, 3), (1024, 3)),
        ((3, 3, 512, 512), (3, 3, 16, 16)),
        ((65, 63), (65, 63)),
        ((), ()),
    ],
    ids=str,
)
def test_the_sample_of_each_leaf(shape, expected):
    """At most 4096 weights of each matrix and 256 of each vector; 2 of each axis."""
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    plan = plan_of(optax.sgd(LR), params)
    assert plan.measured["w"].shape == expected
    assert plan.sampled == (shape != expected)


# --- what a sample would show in another way ----------------------------------------

BIG = {"kernel": jax.ShapeDtypeStruct((512, 64), jnp.float32)}


def pulled(pull):
    """Δ = −γg − pull(θ)."""
    return rule(lambda u, p: -LR * u - pull(p))


def rows_of(p):
    return jnp.arange(p.shape[0])[:, None]


SHAPED = {
    "rows from 300 on": lambda p: jnp.where(rows_of(p) >= 300, -LR, LR) * p,
    "a ramp": lambda p: jnp.linspace(0.0, LR, p.shape[0])[:, None] * p,
    "a ramp of NumPy": lambda p: (
        LR * np.linspace(0, 1, p.shape[0], dtype=np.float32)[:, None] * p
    ),
    "the last ten rows": lambda p: (
        LR * jnp.concatenate([jnp.zeros(p.shape[0] - 10), jnp.ones(10)])[:, None] * p
    ),
    "all but the last rows": lambda p: (
        LR * jnp.ones(p.shape[0]).at[-4:].set(0.0)[:, None] * p
    ),
    "the diagonal": lambda p: LR * jnp.eye(*p.shape) * p,
    "below the diagonal": lambda p: LR * jnp.tril(jnp.ones(p.shape)) * p,
    "every second row": lambda p: LR * (rows_of(p) % 2 * 1.0) * p,
    "a pad": lambda p: LR * jnp.pad(p[:-8], ((0, 8), (0, 0))),
    "a slice": lambda p: jnp.zeros_like(p).at[-8:].set(LR * p[-8:]),
    "the fan-in": lambda p: 0.1 / p.shape[0] * p,
    "a table of constants": lambda p: (
        LR * np.arange(p.size, dtype=np.float32).reshape(p.shape) * p
    ),
    "the number of weights": lambda p: LR * (p if p.size > 5000 else 0.0 * p),
}


@pytest.mark.parametrize("name", SHAPED)
def test_a_rule_that_depends_on_the_shape_is_not_sampled(name):
    plan = plan_of(pulled(SHAPED[name]), BIG)
    assert not plan.sampled
    assert plan.measured == plan.whole


def test_the_rate_of_a_rule_that_depends_on_the_shape():
    """A rate of 0.1/fan-in: the shape is a number in the program."""
    options = {"steps": 25, "seeds": 1}
    leaf = leaf_of(pulled(SHAPED["the fan-in"]), BIG, **options)
    assert leaf.rate == pytest.approx(0.1 / 512, rel=1e-4)
    audit = dx.audit(pulled(SHAPED["rows from 300 on"]), BIG, **options)
    assert kinds(audit) == ["growth"]


SAMPLED = {
    "adamw": lambda: optax.adamw(LR, weight_decay=WD),
    "a clip by the global norm": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(LR, weight_decay=WD)
    ),
    "apply_if_finite": lambda: optax.apply_if_finite(
        optax.adamw(LR, weight_decay=WD), 5
    ),
    "MultiSteps": lambda: optax.MultiSteps(optax.adamw(LR, weight_decay=WD), 2),
    "a mean": lambda: rule(lambda u, p: -LR * (u - u.mean()) - 1e-4 * p),
    "noise": lambda: optax.chain(
        optax.adamw(LR, weight_decay=WD), optax.add_noise(1e-8, 0.55, 0)
    ),
    "a clip by the rms": lambda: optax.chain(
        optax.clip_by_block_rms(1.0), optax.adamw(LR, weight_decay=WD)
    ),
    "muon": lambda: contrib.muon(LR, weight_decay=WD),
    "adafactor": lambda: optax.adafactor(LR, weight_decay_rate=1e-4),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_optimizers_that_a_sample_shows(name):
    assert plan_of(SAMPLED[name](), BIG).sampled
    assert not plan_of(SAMPLED[name](), BIG, sample=False).sampled


@pytest.mark.parametrize("name", ["a clip by the global norm", "apply_if_finite"])
def test_scalars_of_all_weights_do_not_forbid_a_sample(name):
    audit = dx.audit(SAMPLED[name](), BIG, steps=25, seeds=1)
    assert (audit.sampled, audit.elementwise) == (True, False)
    (leaf,) = audit.leaves
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(1e-4, rel=1e-4))


L2_BEFORE_A_CLIP = optax.chain(
    dx.add_l2_to_grad(1e-2), optax.clip_by_global_norm(1.0), optax.sgd(1e-2)
)


def test_if_a_sample_shows_another_rate_all_weights_are_measured():
    """The clip divides by the norm of all gradients: 512·64 normal numbers."""
    options = {"steps": 25, "seeds": 1}
    audit = dx.audit(L2_BEFORE_A_CLIP, BIG, **options)
    assert not audit.sampled
    (leaf,) = audit.leaves
    assert leaf.rate == pytest.approx(1e-4 / (512 * 64) ** 0.5, rel=0.05)
    assert plan_of(L2_BEFORE_A_CLIP, BIG).sampled


def test_the_user_may_force_a_sample():
    options = {"steps": 25, "seeds": 1}
    for optimizer in (L2_BEFORE_A_CLIP, pulled(SHAPED["the fan-in"])):
        audit = dx.audit(optimizer, BIG, sample=True, **options)
        assert audit.sampled
        assert "a sample of each leaf" in str(audit)
    audit = dx.audit(optax.adamw(LR, weight_decay=WD), BIG, sample=False, **options)
    assert not audit.sampled
    assert "on every weight" in str(audit)


def test_an_optimizer_that_decides_by_shape_sees_the_whole_shape():
    """On a sample, a mask by size decides differently: all weights are measured."""
    big = {"kernel": jnp.ones((128, 64)), "small": jnp.ones((8, 8))}
    mask = lambda p: jax.tree.map(lambda x: x.size > 5000, p)  # noqa: E731
    audit = dx.audit(dx.sgdw(LR, weight_decay=WD, mask=mask), big, steps=25, seeds=1)
    assert not audit.sampled
    assert [leaf.mode for leaf in audit.leaves] == ["uniform", "none"]


def test_a_sample_that_the_optimizer_refuses_is_not_taken():
    """Only leaves of at least 512 rows are allowed here."""

    def init(params):
        if any(leaf.shape[0] < 512 for leaf in jax.tree.leaves(params)):
            raise ValueError("too small")
        return optax.EmptyState()

    sgd = optax.sgd(LR)
    picky = optax.chain(optax.GradientTransformation(init, lambda u, s, p: (u, s)), sgd)
    assert not plan_of(picky, BIG).sampled
    assert plan_of(sgd, BIG).sampled


# --- classes of leaves, and their sizes ---------------------------------------------


def layers(count, shape=(8, 8)):
    return {
        f"layer{i}": jax.random.normal(jax.random.key(i), shape) for i in range(count)
    }


def test_equal_leaves_are_measured_once():
    params = layers(20) | {"wide": jnp.ones((8, 16)), "bias": jnp.ones(8)}
    optimizer = optax.adamw(LR, weight_decay=WD)
    program = plan_of(optimizer, params).program()
    # All layers have a size of about 1; the samples of their sizes differ a little.
    shapes = {leaf.shape for leaf in jax.tree.leaves(program.shapes)}
    assert len(jax.tree.leaves(program.shapes)) == len(shapes) == 3
    leaves = dx.audit(optimizer, params, steps=25, seeds=1).leaves
    assert [leaf.path for leaf in leaves] == sorted(params)
    for leaf in leaves:
        assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(1e-4, rel=1e-4))


def test_a_mask_splits_a_class():
    params = layers(6)
    mask = {name: name != "layer3" for name in params}
    leaves = dx.audit(dx.adamw(LR, weight_decay=WD, mask=mask), params, steps=25).leaves
    modes = {leaf.path: leaf.mode for leaf in leaves}
    assert modes == {name: "uniform" if mask[name] else "none" for name in params}


def test_strengths_split_a_class():
    strengths = {"layer0": 1.0, "layer1": 2.0, "layer2": 1.0, "layer3": 0.5}
    optimizer = dx.adamw(LR, weight_decay=WD, mask=strengths)
    for leaf in dx.audit(optimizer, layers(4), steps=25).leaves:
        assert leaf.rate == pytest.approx(1e-4 * strengths[leaf.path], rel=1e-4)


def test_a_rule_that_uses_another_leaf_has_no_class():
    """The update of `a` is made of `b`: equal weights would hide it."""

    def leaf(updates, params):
        b = params["b"]
        return {
            "a": -LR * updates["a"] - 1e-3 * b,
            "b": -LR * updates["b"] - 1e-3 * b,
        }

    params = {"a": ONE["kernel"], "b": ONE["kernel"]}
    a, b = dx.audit(optax.stateless(leaf), params, steps=25, seeds=1).leaves
    assert (b.mode, b.rate) == ("uniform", pytest.approx(1e-3, rel=1e-3))
    assert a.mode == "none"


SIZES = {"layer0": 0.01, "layer1": 0.1, "layer2": 1.0, "layer3": 5.0, "wide": 0.5}


def of_sizes():
    shapes = {"wide": (8, 16)}
    return {
        name: size * jax.random.normal(jax.random.key(i), shapes.get(name, (8, 8)))
        for i, (name, size) in enumerate(SIZES.items())
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.lamb(LR, weight_decay=WD),
        lambda: L2_ADAM,
        lambda: rule(lambda u, p: -LR * u - 1e-3 * p / (1 + p**2)),
    ],
    ids=["lamb", "L2 and adam", "log(1 + θ²)"],
)
def test_leaves_of_unlike_sizes_are_measured_side_by_side(make):
    params, options = of_sizes(), {"steps": 50, "seeds": 1, "gradient_scales": (1.0,)}
    together = dx.audit(make(), params, **options).leaves
    assert len({leaf.rate for leaf in together}) == len(SIZES)
    for leaf in together:
        alone = leaf_of(make(), {leaf.path: params[leaf.path]}, **options)
        assert leaf.rate == pytest.approx(alone.rate, rel=0.05), leaf.path
        assert leaf.mode == alone.mode


def test_the_lanes_of_a_class_are_its_sizes():
    from decayax._audit.plan import _lanes

    sizes, lanes = _lanes([1.0, 1.02, 2.0, 3.0, 3.0, 1.0], [0, 0, 0, 1, 1, 0])
    # The first class has two sizes; the second one repeats its only size.
    np.testing.assert_array_equal(sizes, [[1.0, 3.0], [2.0, 3.0]])
    assert lanes == [0, 0, 1, 0, 0, 0]
    sizes, lanes = _lanes([1.0, 1.06], [0, 0])
    np.testing.assert_array_equal(sizes, [[1.0], [1.06]])


def test_the_size_of_a_leaf_is_its_root_mean_square():
    params = {
        "mean": 3.0 + jnp.zeros((4, 4)),
        "zero": jnp.zeros((4, 4)),
        "shape": jax.ShapeDtypeStruct((4, 4), jnp.float32),
        "nan": jnp.full((4, 4), jnp.nan),
        "half": jnp.full((64, 64), 300.0, jnp.float16),
        "complex": jnp.full(4, 3.0 + 4.0j, jnp.complex64),
        "none": jnp.zeros((0, 4)),
    }
    sizes = dict(zip(sorted(params), plan_of(optax.sgd(LR), params).sizes, strict=True))
    expected = {"mean": 3.0, "half": 300.0, "complex": 5.0}
    assert sizes == pytest.approx({name: 1.0 for name in params} | expected, rel=1e-6)


def test_the_weights_have_the_size_of_the_parameters():
    """The rate of lamb is proportional to it."""
    small, large = (
        leaf_of(optax.lamb(LR, weight_decay=0.01), {"kernel": s * ONE["kernel"]}).rate
        for s in (0.03, 0.3)
    )
    assert large == pytest.approx(10 * small, rel=0.2)


# --- how long it takes --------------------------------------------------------------


@pytest.fixture
def run_for(monkeypatch):
    """Run chunks that take these seconds; returns the warnings."""
    from decayax._audit import follow

    monkeypatch.setattr(follow, "WARN_AFTER_SECONDS", 10.0)
    now = 0.0
    monkeypatch.setattr(follow.time, "monotonic", lambda: now)

    def run(seconds, runs, why=""):
        nonlocal now
        clock = follow.make_clock(runs, why)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for own in seconds:
                for chunk in clock(len(own)):
                    now += own[chunk]
        return [str(warning.message) for warning in caught]

    return run


def test_a_slow_audit_warns_once(run_for):
    (text,) = run_for([[1.0] * 8] * 4, runs=4, why=", because of a test")
    # The first chunk also compiles. The fourth one is the third that counts.
    assert "audit: about 32 s to go, because of a test. Pass sample=True" in text


def test_a_very_slow_chunk_warns_at_once(run_for):
    (text,) = run_for([[20.0] * 2] * 4, runs=4)
    assert "audit: about 160 s to go. Pass" in text


@pytest.mark.parametrize(
    "seconds",
    [
        [[0.01] * 8] * 24,
        [[9.0] + [0.01] * 7] + [[0.01] * 8] * 23,  # the first chunk compiles
        [[1.0] * 3] * 3,  # 9 s
        [[0.1] * 8] * 10 + [[0.5] * 8] * 2,  # 8 s, and most of it is over
    ],
    ids=["fast", "compiled", "short", "nearly over"],
)
def test_a_fast_audit_does_not_warn(run_for, seconds):
    assert run_for(seconds, runs=len(seconds)) == []


def test_one_slow_chunk_of_a_fast_audit_does_not_warn(run_for):
    """The machine was busy for half a second: the next chunks are fast again."""
    chunks = [[0.01] * 8 for _ in range(24)]
    chunks[3][4] = 0.5
    assert run_for(chunks, runs=24) == []


def test_the_median_of_the_chunks_counts(run_for):
    """One chunk of 9 s would make 90 s; their mean, 30 s."""
    assert run_for([[0.1, 0.1, 0.1, 9.0] + [0.1] * 6] * 1, runs=1) == []
    assert run_for([[0.1, 9.0, 0.1, 0.1] + [0.1] * 6] * 1, runs=1) == []
    (text,) = run_for([[0.1, 2.0, 0.1, 2.0] + [2.0] * 6] * 1, runs=1)
    assert "audit: about 20 s to go" in text


def test_an_estimate_covers_the_runs_that_are_left(run_for):
    (text,) = run_for([[0.1]] * 10 + [[2.0] * 8] * 2, runs=12)
    assert "audit: about 32 s to go" in text


def test_a_long_audit_warns_how_long_it_takes(monkeypatch):
    from decayax._audit import follow

    monkeypatch.setattr(follow, "WARN_AFTER_SECONDS", 0.0)
    with pytest.warns(
        UserWarning, match=r"audit: about \d+ s to go, because all weights are.*True"
    ):
        dx.audit(optax.lamb(LR), ONE, steps=100)
