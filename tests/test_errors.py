"""Errors are for people: which transform, what it got, what to write instead."""

import fractions
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import DECAYS, first_of_each, parametrize, Row

import decayax as dx
from decayax._core.strength import short_repr


DECAYING = first_of_each(DECAYS)
# An error about the decay names what has the decay: the optimizer in a wrapper (its row
# gives the name as options), or a stage of a chain.
WRAPPERS = ("track_decay", "with_stochastic_rounding", "with_compensation")
CHAINED = ("round_stochastically", "compensate_rounding", "with_state_dtype")
PARAMS = {"a": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}, "b": jnp.ones(5)}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


def speaker(row: Row) -> str:
    if row.name in CHAINED:
        return "decoupled_decay"
    return row.options if row.name in WRAPPERS else row.name


def use(part, params=PARAMS, grads=GRADS):
    return part.update(grads, part.init(params), params)


BAD_STRENGTHS = {
    "negative": (-0.1, ValueError, r"must be >= 0, got -0.1. Pass 0.1; the transform"),
    "negative array": (jnp.float32(-0.5), ValueError, r"must be >= 0, got -0.5"),
    "barely negative": (-5e-324, ValueError, r"must be >= 0, got -5e-324. Pass 5e-324"),
    "nan": (float("nan"), ValueError, r"must be finite, got nan. Pass a number >= 0"),
    "inf": (np.float32(np.inf), ValueError, r"must be finite, got inf"),
    "True": (True, TypeError, r"must be a number, got the boolean True. Pass a numb"),
    "np.bool": (np.bool_(False), TypeError, r"got the boolean False"),
    "bool array": (jnp.array(True), TypeError, r"real number, got an array of dtype b"),
    "complex": (np.complex64(1), TypeError, r"real number, got an array of dtype comp"),
    "string": ("0.1", TypeError, r"must be a number, got '0.1' of type str. Pass"),
    "None": (None, TypeError, r"got None of type NoneType.*or 0.0 for no decay"),
    "list": ([0.1], TypeError, r"must be a number, got \[0.1\] of type list"),
    "dict": ({"w": 0.1}, TypeError, r"got \{'w': 0.1\} of type dict"),
    "shape (3,)": (np.full(3, 0.1), ValueError, r"one number, got an array of shape \("
                   r"3,\). For one strength per parameter, pass mask= a tree of numb"
                   r"ers; for one per row, layer or head, .* a tree of arrays"),
    "shape (1,)": (jnp.ones(1), ValueError, r"got an array of shape \(1,\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_STRENGTHS)
@parametrize(DECAYING)
def test_bad_strengths(row: Row, kind):
    value, error, text = BAD_STRENGTHS[kind]
    with pytest.raises(error, match=f"{speaker(row)}: {row.argument} .*{text}"):
        use(row.part(value))


@pytest.mark.parametrize("kind", ["negative", "nan", "True", "string", "shape (3,)"])
@parametrize([row for row in DECAYING if row.schedules])
def test_bad_values_of_a_schedule(row: Row, kind):
    value, error, text = BAD_STRENGTHS[kind]
    text = f"{speaker(row)}: the value of the {row.argument} schedule .*{text}"
    with pytest.raises(error, match=text):
        use(row.part(lambda step: value))
    with pytest.raises(error, match=text):  # concrete while tracing
        jax.jit(lambda: use(row.part(lambda step: value)))()


@pytest.mark.parametrize("shape", [(1,), (2, 2)])
def test_a_traced_strength_is_checked_for_its_shape(shape):
    with pytest.raises(ValueError, match=r"decoupled_decay: weight_decay must be one"):
        jax.jit(lambda wd: use(dx.decoupled_decay(wd)))(jnp.ones(shape))


def test_a_value_on_another_process_is_not_read(monkeypatch):
    elsewhere = jnp.float32(-1.0)
    monkeypatch.setattr(
        type(elsewhere), "is_fully_addressable", property(lambda self: False)
    )
    use(dx.decoupled_decay(elsewhere))  # this process cannot read its sign


def test_real_numbers_of_all_kinds_are_fine():
    for value in (1, 0.5, np.int32(1), np.float16(0.5), fractions.Fraction(1, 2), 0):
        use(dx.decoupled_decay(value))


def test_the_penalty_refuses_schedules():
    with pytest.raises(
        TypeError, match=r"l2_penalty: weight_decay .* no step.*Write l2"
    ):
        dx.l2_penalty(PARAMS, lambda step: 0.1)


def test_the_penalty_refuses_complex_parameters():
    with pytest.raises(TypeError, match=r"l2_penalty: the parameter w is complex"):
        dx.l2_penalty({"w": jnp.ones(2, complex)}, 0.1)
    params = {"w": jnp.ones(2, complex), "v": jnp.ones(2)}
    assert dx.l2_penalty(params, 0.1, mask={"w": False, "v": True}) == pytest.approx(
        0.1
    )


# --- masks ------------------------------------------------------------------------


BAD_MASKS = {
    "matches nothing": (
        {"a": False, "b": 0.0},
        ValueError,
        r"mask matches no parameter: a/bias, a/kernel, b all get the multiplier 0\. "
        r"Correct the mask. For no decay, pass weight_decay=0.0",
    ),
    "function matches nothing": (
        lambda params: jax.tree.map(lambda p: p.ndim > 7, params),
        ValueError,
        r"mask matches no parameter",
    ),
    "False": (False, ValueError, r"mask matches no parameter"),
    "leaf missing": (
        {"a": {"kernel": True}, "b": True},
        ValueError,
        r"mask says nothing about a/bias. Give each parameter True, False or a number",
    ),
    "leaf too many": (
        {"a": True, "b": True, "biass": False},
        ValueError,
        r"mask has an entry for biass, where there is no parameter. The nearest "
        r"parameters are a/bias",
    ),
    "too deep": (
        {"a": True, "b": {"w": True}},
        ValueError,
        r"mask has an entry for b/w, where there is no parameter",
    ),
    "empty": ({}, ValueError, r"mask says nothing about a/bias, a/kernel, b"),
    "string": (
        {"a": True, "b": "no"},
        TypeError,
        r"the mask's multiplier at b must be a number, got 'no' of type str",
    ),
    "bare string": ("kernel", TypeError, r"multiplier at .* got 'kernel' of type str"),
    "negative": (
        {"a": True, "b": -1.0},
        ValueError,
        r"the mask's multiplier at b must be >= 0, got -1.0",
    ),
    "nan": ({"a": True, "b": np.nan}, ValueError, r"multiplier at b must be finite"),
    "array of another size": (
        {"a": True, "b": jnp.ones(4)},
        ValueError,
        r"multiplier at b has shape \(4,\), which does not broadcast to the shape "
        r"\(5,\) of b. From the last axis on, each axis must have size 1 or that of",
    ),
    "array that enlarges": (
        {"a": True, "b": np.ones((1, 5))},
        ValueError,
        r"multiplier at b has shape \(1, 5\), which does not broadcast to the sh",
    ),
    "rows, one axis": (
        {"a": {"kernel": np.ones(4), "bias": True}, "b": True},
        ValueError,
        r"multiplier at a/kernel has shape \(4,\), which does not broadcast to the "
        r"shape \(4, 3\) of a/kernel. For its first axes, write multiplier.reshape\("
        r"\(4, 1\)\)",
    ),
    "array for a subtree": (
        {"a": np.ones((4, 1)), "b": True},
        ValueError,
        r"multiplier at a has shape \(4, 1\), which does not broadcast to the shape "
        r"\(3,\) of a/bias. .* or give this parameter one of its own",
    ),
    "list of multipliers": (
        {"a": True, "b": [1.0, 0.0, 0.0, 0.0, 1.0]},
        ValueError,
        r"mask has an entry for b/0, b/1, b/2 and 2 more, where .* as an array, not a",
    ),
    "negative in an array": (
        {"a": True, "b": np.array([1.0, 0.0, -2.0, 0.0, -3.0])},
        ValueError,
        r"the mask's multiplier at b must be >= 0, got -2.0",
    ),
    "nan in an array": (
        {"a": True, "b": jnp.full(5, np.nan)},
        ValueError,
        r"the mask's multiplier at b must be finite, got nan",
    ),
    "complex array": (
        {"a": True, "b": np.ones(5, complex)},
        TypeError,
        r"multiplier at b must be a real number, got an array of dtype complex128",
    ),
    "arrays of zeros": (
        {"a": False, "b": np.zeros(5)},
        ValueError,
        r"mask matches no parameter: a/bias, a/kernel, b all get the multiplier 0\.",
    ),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
@parametrize(DECAYING)
def test_bad_masks_fail_at_init(row: Row, kind):
    mask, error, text = BAD_MASKS[kind]
    part = row.part(0.1, mask)
    text = rf"{speaker(row)}: .*{text}"
    if row.name == "l2_penalty":  # no init of its own
        with pytest.raises(error, match=text):
            dx.l2_penalty(PARAMS, 0.1, mask=mask)
        return
    with pytest.raises(error, match=text):
        part.init(PARAMS)


def test_a_mask_that_asks_for_values_raises_with_the_reason():
    mask = lambda params: jax.tree.map(lambda p: p > 0, params)  # noqa: E731
    with pytest.raises(TypeError) as raised:
        dx.decoupled_decay(0.1, mask=mask).init(PARAMS)
    text = "It can decide by path, shape and dtype, but not by value."
    assert text in raised.value.__notes__[0]


def test_a_mask_that_asks_for_arrays_raises_with_the_type_it_gets():
    mask = lambda p: jax.tree.map(lambda x: isinstance(x, jax.Array), p)  # noqa: E731
    with pytest.raises(ValueError, match=r"no .* jax.ShapeDtypeStruct, not a jax.A"):
        dx.decoupled_decay(0.1, mask=mask).init(PARAMS)


def test_a_mask_function_needs_paths():
    mask = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    flat = optax.flatten(dx.decoupled_decay(0.1, mask=mask))
    text = r"decoupled_decay: .* bare array without leaf paths.*static_args='mask'"
    with pytest.raises(ValueError, match=text):
        flat.init(PARAMS)


def test_inject_hyperparams_that_calls_the_mask_is_caught():
    mask = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    wrong = optax.inject_hyperparams(dx.decoupled_decay)(0.1, mask=mask)
    with pytest.raises(ValueError, match=r"matches no parameter.*static_args='mask'"):
        wrong.init(PARAMS)
    right = optax.inject_hyperparams(dx.decoupled_decay, static_args="mask")(
        0.1, mask=mask
    )
    updates, _ = right.update(GRADS, right.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["a"]["kernel"], 1.1)
    np.testing.assert_allclose(updates["b"], 1.0)


# --- parameters and updates -------------------------------------------------------


@parametrize(DECAYING)
def test_parameters_must_come_along(row: Row):
    if row.name == "l2_penalty":
        with pytest.raises(ValueError, match=r"l2_penalty: needs the parameters"):
            dx.l2_penalty(None, 0.1)
        return
    part = row.part(0.1)
    state = part.init(PARAMS)
    by_itself = ("track_decay", "with_stochastic_rounding", "with_compensation")
    name = row.name if row.name in by_itself else speaker(row)
    with pytest.raises(
        ValueError,
        match=rf"{name}: needs the parameters, got "
        r"params=None. Write optimizer.update\(grads, state, params\)",
    ):
        part.update(GRADS, state)  # fmt: skip


PLACES = [
    row
    for row in DECAYING
    if row.name in ("add_l2_to_grad", "decoupled_decay", "independent_decay")
]


@pytest.mark.parametrize("strength", [0.1, 0.0])
@pytest.mark.parametrize(
    ("grad", "param"),
    [((5, 1), (5,)), ((1, 5), (3, 5)), ((3, 5), (1, 5)), ((), (5,))],
    ids=["another axis", "broadcasts", "broadcasts to", "scalar"],
)
@parametrize(PLACES)
def test_updates_must_have_the_shapes_of_the_parameters(
    row: Row, grad, param, strength
):
    grads, params = {**GRADS, "b": jnp.ones(grad)}, {**PARAMS, "b": jnp.ones(param)}
    text = f"{row.name}: the update of b has shape {grad}, its parameter {param}. Pass "
    with pytest.raises(ValueError, match=re.escape(text)):
        use(row.part(strength), params, grads)


@parametrize(PLACES)
def test_updates_must_be_the_tree_of_the_parameters(row: Row):
    with pytest.raises(
        ValueError, match=rf"{row.name}: updates and parameters are dif"
    ):
        use(row.part(0.1), grads={"a": GRADS["a"]})
    with pytest.raises(
        ValueError, match=rf"{row.name}: .* of b has .* parameter is missi"
    ):
        use(row.part(0.1), params={**PARAMS, "b": None})
    with pytest.raises(
        ValueError, match=rf"{row.name}: .* of a has .* parameter is missi"
    ):
        use(row.part(0.1), grads={**GRADS, "a": jnp.ones(3)})


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_])
@parametrize(PLACES)
def test_integers_cannot_shrink(row: Row, dtype):
    params = {**PARAMS, "b": jnp.ones(5, dtype)}
    text = rf"{row.name}: the parameter b has dtype {jnp.dtype(dtype)}.*Exclude it with"
    with pytest.raises(TypeError, match=text):
        row.part(0.1).init(params)
    with pytest.raises(TypeError, match=text):
        row.part(lambda step: 0.1).init(params)
    with pytest.raises(TypeError, match=r"the update b has dtype int32"):
        use(row.part(0.1), grads={**GRADS, "b": jnp.ones(5, jnp.int32)})
    use(row.part(0.0), params)  # not touched
    use(row.part(0.1, {"a": True, "b": False}), params)


def test_a_function_in_the_parameters_is_refused():
    params = {"w": jnp.ones(2), "activation": jnp.tanh}
    text = r"the parameter activation has dtype <class .*replace it with None"
    with pytest.raises(TypeError, match=text):
        dx.decoupled_decay(0.1).init(params)


def test_a_real_gradient_of_a_complex_parameter_is_refused():
    params, grads = {"w": jnp.ones(2, complex)}, {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"decoupled_decay: the update w is real"):
        use(dx.decoupled_decay(0.1), params, grads)


# --- scale_by_rms -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"decay": 1.0},
            r"decay must be < 1, got 1.0. Pass a number in \[0, 1\), such as 0.9",
        ),
        ({"decay": -0.1}, r"decay must be >= 0"),
        ({"eps": -1e-8}, r"eps must be >= 0, got -1e-08"),
        ({"eps": float("nan")}, r"eps must be finite"),
        ({"initial_scale": "1"}, r"initial_scale must be a number, got '1'"),
    ],
)
def test_scale_by_rms_checks_its_options(options, text):
    with pytest.raises((TypeError, ValueError), match=f"scale_by_rms: {text}"):
        dx.scale_by_rms(**options)


def test_scale_by_rms_checks_its_gradients():
    part = dx.scale_by_rms()
    state = part.init(PARAMS)
    for shape in ((5, 1), (1, 5), ()):
        with pytest.raises(
            ValueError, match=r"scale_by_rms: the update of b has shape"
        ):
            part.update({**GRADS, "b": jnp.ones(shape)}, state)
    with pytest.raises(
        TypeError, match=r"scale_by_rms: the gradient b has dtype int32"
    ):
        part.update({**GRADS, "b": jnp.ones(5, jnp.int32)}, state)
    with pytest.raises(ValueError, match=r"scale_by_rms: updates and parameters are"):
        part.update({"a": GRADS["a"]}, state)


ADAM, RMS, SGD = (
    (dx.adam_l2, dx.adamw),
    (dx.rmsprop_l2, dx.rmspropw),
    (dx.sgd_l2, dx.sgdw),
)


@pytest.mark.parametrize(
    ("pair", "options", "text"),
    [
        (ADAM, {"b1": 1.0}, "b1 must be < 1"),
        (ADAM, {"b2": 1.0}, "b2 must be < 1"),
        (ADAM, {"eps": -1.0}, "eps must be >= 0, got -1.0. Pass one number >= 0"),
        (ADAM, {"eps_root": "x"}, "eps_root must be a number, got 'x' of type str"),
        (RMS, {"decay": 1.0, "centered": True}, "decay must be < 1"),
        (RMS, {"momentum": float("nan")}, "momentum must be finite"),
        (
            SGD,
            {"momentum": 1.5},
            r"momentum must be < 1, got 1.5. Pass a number in",
        ),
        (SGD, {"momentum": -1.0}, r"momentum must be >= 0"),
        (SGD, {"momentum": "x"}, r"momentum must be a number"),
    ],
)
def test_the_optimizers_check_their_options(pair, options, text):
    for make in pair:
        with pytest.raises((TypeError, ValueError), match=f"{make.__name__}: {text}"):
            make(1e-3, **options)


def test_an_error_stays_short():
    many = {str(n): jnp.ones(2) for n in range(1000)}
    for mistake in (
        lambda: dx.decoupled_decay(many),
        lambda: dx.with_decay(many, 0.1, learning_rate=0.1),
        lambda: dx.l2_penalty(0.1, many),
        lambda: use(dx.decoupled_decay(0.1), params=many),
        lambda: use(dx.decoupled_decay(0.1, mask=dict.fromkeys(many, 0)), many, many),
    ):
        with pytest.raises((TypeError, ValueError)) as raised:
            mistake()
        assert len(str(raised.value)) < 1000


def test_a_b2_rounded_to_one_by_inject_hyperparams_is_caught():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    rounded = optax.inject_hyperparams(dx.adamw)(1e-3)
    with pytest.raises(ValueError, match=r"adamw: b2 .*hyperparam_dtype=jnp.float32"):
        rounded.init(params)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"middle": 5, "end": 9, "a": 1}, "{'middle': 5, 'end': 9, 'a': 1}"),
        ({}, "{}"),
        ({n: n for n in (9, 8, 7, 6, 5)}, "{9: 9, 8: 8, 7: 7, 6: 6, ...}"),
        ({"b": {"z": [1], "y": 2}}, "{'b': {'z': [1], 'y': 2}}"),
    ],
)
def test_an_error_shows_a_dict_in_its_own_order(value, shown):
    assert short_repr(value) == f"{shown} of type dict"
