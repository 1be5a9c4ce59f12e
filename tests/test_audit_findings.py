"""The audit's findings: planted mistakes, and the strength that was given."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from audit_cases import (
    BF16,
    evidence_for,
    KEY,
    kinds,
    L2_ADAM,
    LR,
    MASK,
    MISTAKES,
    no_warning as no_warning,
    of_a_factory,
    of_mistake,
    ONE,
    PARAMS,
    rule,
    WD,
)
from optax import contrib

import decayax as dx


HARMLESS = ("biases or norms decay", "scale-dependent")


@pytest.mark.parametrize("kind", MISTAKES)
def test_planted_mistakes_are_found(kind):
    audit, text = of_mistake(kind), MISTAKES[kind][-1]
    assert kinds(audit) == [kind]
    (finding,) = audit.findings
    assert text in finding.text
    assert HINTS[kind] in finding.hint
    assert finding.serious == (kind not in HARMLESS)
    assert str(finding) in str(audit)
    if finding.serious:
        with pytest.raises(ValueError, match=r"write check\(allow=\['" + kind):
            audit.check()
    audit.check(allow=[kind])


def test_no_findings_without_a_mistake():
    audit = of_a_factory()
    assert audit.findings == ()
    audit.check()
    assert "no problems found" in str(audit)
    assert kinds(dx.audit(optax.adam(LR), PARAMS)) == []


def test_serious_findings_come_first():
    optimizer = optax.chain(
        optax.add_decayed_weights(WD), optax.adam(LR), optax.add_decayed_weights(1e-3)
    )
    found = kinds(dx.audit(optimizer, PARAMS))
    assert found == ["growth", "two decays at once", "biases or norms decay"]


def test_two_decays_may_never_meet_if_a_mask_is_not_known():
    chain = optax.chain(
        optax.flatten(
            optax.masked(
                optax.add_decayed_weights(0.1), lambda vector: vector.ndim == 1
            )
        ),
        optax.add_decayed_weights(0.2),
        optax.sgd(LR),
    )
    audit = dx.audit(chain, {"a": ONE["kernel"], "b": ONE["kernel"]})
    assert kinds(audit) == ["two decays at once"]
    audit.check()


def test_without_a_step_nothing_is_known():
    for optimizer in (
        optax.MultiSteps(dx.sgdw(LR, weight_decay=WD), 1000),
        dx.sgdw(0.0, weight_decay=WD),
    ):
        audit = dx.audit(optimizer, ONE, steps=50)
        assert kinds(audit) == ["no step"]
        with pytest.raises(ValueError, match="no weight moved in any step"):
            audit.check()


def test_example_gradients_show_which_leaves_are_frozen():
    gradients = {
        "dense": {"kernel": jnp.eye(16), "bias": None},
        "norm": {"scale": jnp.zeros(16)},
    }
    audit = dx.audit(optax.adamw(LR, weight_decay=WD), PARAMS, gradients=gradients)
    (finding,) = [f for f in audit.findings if f.kind == "decay without gradient"]
    assert finding.paths == ("dense/bias", "norm/scale")


def test_the_user_may_pass_the_strength():
    hidden = optax.stateless(lambda updates, params: updates)
    assert kinds(dx.audit(hidden, ONE)) == []
    assert kinds(dx.audit(hidden, ONE, weight_decay=0.1)) == ["nothing decays"]


@pytest.mark.parametrize("name", ["lbfgs", "sophia"])
def test_optimizers_that_need_an_objective_are_not_auditable(name):
    make = getattr(optax, name, None) or getattr(contrib, name, None)
    if make is None:
        pytest.skip(f"this optax has no {name}")
    audit = dx.audit(make(LR), ONE)
    assert audit.leaves == ()
    assert kinds(audit) == ["not auditable"]
    with pytest.raises(ValueError, match="extra_args"):
        audit.check()
    assert "not auditable" in str(audit)
    assert "not auditable" in audit._repr_html_()


@pytest.mark.parametrize(
    "params",
    [{}, {"steps": jnp.zeros(3, jnp.int32)}, {"none left": jnp.ones((0, 3))}],
    ids=str,
)
def test_no_weights_are_no_clean_audit(params):
    audit = dx.audit(optax.adamw(LR), params)
    assert kinds(audit) == ["nothing to audit"]
    assert "no problems found" not in str(audit)
    with pytest.raises(ValueError, match="Pass the parameters that the optimizer"):
        audit.check()


def test_a_surviving_fraction_below_the_noise_is_unknown():
    params = {"kernel": jax.ShapeDtypeStruct((64, 64), "bfloat16")}
    optimizer = dx.with_stochastic_rounding(optax.adamw(3e-4, weight_decay=1e-4))
    audit = dx.audit(optimizer, params)
    assert audit.leaves[0].rate == pytest.approx(3e-8, rel=1e-2)
    assert audit.leaves[0].surviving_fraction is None
    (finding,) = audit.findings
    assert (finding.kind, finding.serious) == ("rounding not measured", False)
    assert "of kernel survives rounding to bfloat16 is not known" in finding.text
    assert str(audit).splitlines()[1].split()[-1] == "?"


def masked_out(params):
    return jax.tree.map(lambda _: False, params)


GROUPS = {"a": optax.adamw(LR, weight_decay=0.1), "b": optax.adamw(LR)}


def schedule_of_a_user():
    """A closure that holds a module, and a `weight_decay` that is not one of Optax."""
    weight_decay, module = WD, np
    return lambda step: module.float32(LR) * (1.0 + 0.0 * weight_decay)


DECLARED = {
    "optax": (optax.adamw(LR, weight_decay=WD), (WD,), 1, False),
    "decayax": (dx.sgdw(LR, weight_decay=WD), (WD,), 1, False),
    "a mask": (optax.adamw(LR, weight_decay=WD, mask=masked_out), (WD,), 0, False),
    "a mask of other params": (
        optax.adamw(LR, weight_decay=WD, mask={"other": True}),
        (WD,),
        1,
        True,
    ),
    "a NumPy array": (optax.adamw(LR, weight_decay=np.float32(0.5)), (0.5,), 1, False),
    "a JAX array": (optax.adamw(LR, weight_decay=jnp.array(0.5)), (0.5,), 1, False),
    "a schedule": (dx.adamw(LR, weight_decay=lambda t: 0.0 * t), (math.nan,), 1, False),
    "a strength of 0": (optax.adamw(LR, weight_decay=0.0), (), 0, False),
    "inject_hyperparams": (
        optax.inject_hyperparams(optax.adamw)(LR, weight_decay=WD),
        (WD,),
        1,
        False,
    ),
    "weight_decay_rate": (
        optax.inject_hyperparams(
            lambda weight_decay_rate: optax.adafactor(
                LR, weight_decay_rate=weight_decay_rate
            )
        )(weight_decay_rate=WD),
        (WD,),
        1,
        False,
    ),
    "adam_weight_decay": (
        optax.inject_hyperparams(
            lambda adam_weight_decay: optax.adamw(LR, weight_decay=adam_weight_decay)
        )(adam_weight_decay=WD),
        (WD,),
        1,
        False,
    ),
    "MultiSteps": (optax.MultiSteps(optax.adamw(LR, weight_decay=WD), 2), (WD,), 1, 0),
    "methods": (
        optax.MultiSteps(optax.adamw(LR, weight_decay=WD), 2).gradient_transformation(),
        (WD,),
        1,
        False,
    ),
    "two of one strength": (
        optax.chain(
            optax.add_decayed_weights(WD), optax.sgd(LR), dx.independent_decay(WD)
        ),
        (WD, WD),
        2,
        False,
    ),
    "one in each group": (
        optax.partition(GROUPS, {"kernel": "a"}),
        (1e-4, 0.1),
        1,
        False,
    ),
    "one in each group and one for all": (
        optax.chain(
            optax.partition(GROUPS, {"kernel": "a"}), dx.independent_decay(0.2)
        ),
        (1e-4, 0.1, 0.2),
        2,
        False,
    ),
    "a function of the user": (optax.adam(schedule_of_a_user()), (), 0, False),
}


@pytest.mark.parametrize("name", DECLARED)
def test_the_strength_is_read_from_closures(name):
    """Optax's closures are private. If they change, this test says so."""
    from decayax._audit.declared import declared_decay

    optimizer, strengths, max_per_parameter, masked = DECLARED[name]
    declared = declared_decay(optimizer, ONE)
    assert declared.strengths == pytest.approx(strengths, nan_ok=True), (
        "The closures of Optax have changed: see decayax/_audit/declared.py. The audit "
        "misses the findings 'nothing decays' and 'two decays at once' until it reads "
        "the new ones."
    )
    assert declared.max_per_parameter == max_per_parameter
    assert declared.masked == masked


BODY, HEAD = {"body": True, "head": False}, {"body": False, "head": True}
EVEN = np.array([[1.0], [0.0]] * 8)
# Pairs of decays, and how many of them meet at one weight.
PAIRS = {
    "masks of decayax": (
        dx.decay_to_init(WD, mask=BODY),
        dx.decoupled_decay(WD, mask=HEAD),
        1,
    ),
    "masks of Optax": (
        optax.add_decayed_weights(WD, mask=BODY),
        optax.add_decayed_weights(WD, mask=lambda params: HEAD),
        1,
    ),
    "masks of both": (
        optax.masked(optax.chain(optax.add_decayed_weights(WD)), BODY),
        dx.cautious_decay(WD, mask=HEAD),
        1,
    ),
    "a mask of roles and its inverse": (
        dx.proximal_decay(WD, learning_rate=LR, mask=dx.masks.by_role(bias=True)),
        dx.soft_threshold(
            WD,
            learning_rate=LR,
            mask=dx.masks.invert(dx.masks.by_role(bias=True)),
        ),
        1,
    ),
    "rows of each leaf": (
        dx.decoupled_decay(WD, mask=EVEN),
        dx.spectral_decay(WD, mask=1.0 - EVEN),
        1,
    ),
    "some rows, all rows": (
        dx.decoupled_decay(WD, mask=EVEN),
        dx.decoupled_decay(WD, mask=HEAD),
        2,
    ),
    "one mask": (
        dx.decoupled_decay(WD, mask=BODY),
        optax.add_decayed_weights(WD, mask=BODY),
        2,
    ),
    "one around the other": (
        dx.touched_decay(dx.add_l2_to_grad(WD, mask=HEAD), WD, mask=BODY),
        dx.fixed_norm(),
        1,
    ),
    "strengths that are not of a decay": (
        dx.radial_brake(WD),
        dx.selective_projection(optax.sgd(LR), WD),
        0,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_decays_meet_where_both_masks_select(name):
    from decayax._audit.declared import declared_decay

    first, second, meeting = PAIRS[name]
    params = {"body": ONE["kernel"], "head": ONE["kernel"]}
    declared = declared_decay(optax.chain(first, second), params)
    assert declared.max_per_parameter == meeting
    assert not declared.masked


def test_separate_decays_are_not_two_at_once():
    first, second, _ = PAIRS["masks of Optax"]
    params = {"body": ONE["kernel"], "head": ONE["kernel"]}
    assert kinds(dx.audit(optax.chain(first, second, optax.sgd(LR)), params)) == []


@pytest.mark.parametrize(
    ("max_per_parameter", "masked", "serious"),
    [(1, False, []), (2, False, [True]), (2, True, [False])],
)
def test_two_decays_are_a_finding_if_they_can_meet(max_per_parameter, masked, serious):
    from decayax._audit.declared import DeclaredDecay
    from decayax._audit.findings import find

    declared = DeclaredDecay((1e-4, 1e-4), max_per_parameter, masked)
    evidence = [evidence_for(leaf) for leaf in of_a_factory().leaves]
    findings = find(evidence, declared, weight_decay=None)
    assert [finding.serious for finding in findings] == serious
    for finding in findings:
        assert "contains 2 weight decays (0.0001, 0.0001)" in finding.text


def test_the_strength_that_a_factory_gives_is_found():
    factory = lambda lr: optax.adamw(lr, weight_decay=WD, mask=masked_out)  # noqa: E731
    audit = dx.audit(factory, ONE, steps=25)
    assert kinds(audit) == ["nothing decays"]


def test_a_strength_may_be_a_schedule():
    never = dx.audit(dx.adamw(LR, weight_decay=lambda t: 0.0 * t), ONE, steps=25)
    assert kinds(never) == ["nothing decays"]
    masked = optax.adamw(LR, weight_decay=lambda t: WD, mask=masked_out)
    (finding,) = dx.audit(masked, ONE, steps=25).findings
    assert finding.kind == "nothing decays"
    assert "a weight decay was given (a schedule)" in finding.text


@pytest.mark.parametrize(
    ("begin", "seen_at"), [(500, 1000), (1000, 1000), (2000, 10_000), (50_000, 100_000)]
)
def test_a_decay_that_begins_later_is_measured_there(begin, seen_at):
    late = dx.adamw(LR, weight_decay=lambda t: jnp.where(t < begin, 0.0, WD))
    audit = dx.audit(late, ONE, steps=25, seeds=1)
    (finding,) = audit.findings
    assert finding.kind == "nothing decays so far"
    assert f"at step {seen_at} the rate of kernel is 0.0001 per" in finding.text
    audit.check()


@pytest.mark.parametrize("kind", ["Growth", "gradient dependent", "", "clip", "none"])
def test_unknown_kinds_cannot_be_allowed(kind):
    text = f"check: allow must be kinds of findings, got {kind!r}. Pass some of ancho"
    with pytest.raises(ValueError, match=text):
        of_a_factory().check(allow=["growth", kind])


def test_every_kind_of_a_finding_can_be_allowed():
    for kind in MISTAKES:
        of_mistake(kind).check(allow=set(kinds(of_mistake(kind))))


def test_only_a_decay_can_be_lost_in_rounding():
    params = {"kernel": BF16["kernel"], "bias": jnp.zeros(16, jnp.bfloat16)}
    bias, kernel = dx.audit(optax.adamw(LR, weight_decay=WD, mask=MASK), params).leaves
    assert bias.surviving_fraction is None
    assert kernel.surviving_fraction < 0.5


def test_the_finding_names_all_missing_arguments():
    def update(updates, state, params=None, *, value, loss):
        return updates, state

    init = lambda params: optax.EmptyState()  # noqa: E731
    (finding,) = dx.audit(
        optax.GradientTransformationExtraArgs(init, update), ONE
    ).findings
    assert "'value' and 'loss'" in finding.text


def test_growth_has_a_doubling_time():
    audit = of_mistake("growth")
    (leaf,) = audit.leaves
    assert math.isnan(leaf.timescale_steps)
    assert math.isnan(leaf.half_life_steps)
    assert "doubles in 6.93e+03" in str(audit)


def test_a_rate_of_1_or_more_has_half_life_0():
    (leaf,) = of_mistake("rate of 1 or more").leaves
    assert leaf.half_life_steps == 0.0
    assert kinds(dx.audit(dx.independent_decay(1.0), ONE)) == ["rate of 1 or more"]


def test_an_overflow_is_not_finite():
    half = jax.tree.map(lambda x: x.astype(jnp.float16), ONE)
    audit = dx.audit(dx.sgdw(1e5, weight_decay=1e-9), half)
    assert kinds(audit) == ["not finite"]
    (leaf,) = audit.leaves
    assert (leaf.mode, leaf.surviving_fraction) == ("not finite", None)
    assert math.isnan(leaf.rate)
    assert "become infinite or NaN in float16" in str(audit)


HINTS = {
    "growth": "After the learning rate, updates are negative.",
    "rate of 1 or more": "Pass a smaller weight_decay.",
    "gradient-dependent": "dx.decoupled_decay",
    "lost in rounding": "rounds back to the same weight",
    "decay without gradient": "place the freeze after the decay",
    "biases or norms decay": "no_bias_or_norm",
    "nothing decays": "dx.masks.describe",
    "two decays at once": "Remove one",
    "scale-dependent": "trust ratio",
}


def test_one_frozen_leaf_is_not_an_audit_without_steps():
    params = {"a": ONE["kernel"], "b": ONE["kernel"]}
    audit = dx.audit(
        rule(lambda u, p: -LR * u),
        params,
        gradients={"a": params["a"], "b": None},
        weight_decay=0.1,
    )
    assert kinds(audit) == ["nothing decays"]


def test_findings_are_escaped_for_notebooks():
    audit = dx.audit(L2_ADAM, {"<b>": ONE["kernel"]}, steps=25)
    assert "<b>" not in audit._repr_html_()


def test_the_finding_states_the_smallest_fraction():
    params = {"a": 0.1 * BF16["kernel"], "b": 0.6 * BF16["kernel"], **BF16}
    audit = dx.audit(dx.sgdw(LR, weight_decay=WD), params)
    a, b, kernel = (leaf.surviving_fraction for leaf in audit.leaves)
    # Two runs of 200 steps, with the decay and without it, give 0.11, 0.33 and 1.0.
    assert (kernel, b, a) == pytest.approx((0.11, 0.33, 1.0), abs=0.05)
    (finding,) = audit.findings
    assert "of the decay of b, kernel. The smallest" in finding.text
    assert f"fraction that survives is {kernel:.0%}." in finding.text
    assert "overflows" not in str(audit)


@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_finding_states_rates_that_differ(part, sparse):
    """Fewer than 5 % of the weights are outside the quantiles."""
    decays = np.arange(64)[:, None] < round(part * 64)
    params = {"kernel": jax.random.normal(KEY, (64, 16))}
    if sparse:
        optimizer = rule(lambda u, p: -LR * u - jnp.where(u != 0, 1e-3, 0.0) * p)
        gradients = {"kernel": np.ones((64, 16)) * decays}
        audit = dx.audit(optimizer, params, gradients=gradients, steps=25)
    else:
        optimizer = rule(lambda u, p: -LR * u - 1e-3 * decays * p)
        audit = dx.audit(optimizer, params, steps=25)
    (finding,) = audit.findings
    assert finding.kind == ("gated" if sparse else "uneven")
    assert "0 to 0.001" in finding.text
    assert "-0" not in finding.text


def test_weights_that_are_not_finite_have_no_rate():
    audit = dx.audit(optax.scale(jnp.nan), ONE, horizon=1000, steps=25)
    assert kinds(audit) == ["not finite"]
    (leaf,) = audit.leaves
    assert math.isnan(leaf.rate)
    assert math.isnan(leaf.half_life_steps)
    assert math.isnan(leaf.kept)
    assert all(math.isnan(rate) for _, rate in leaf.by_step)
    assert "100.0%" not in str(audit)
