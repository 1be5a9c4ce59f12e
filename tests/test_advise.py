"""Advice: the published rules, their worked numbers, and their limits."""

import math
import re
from pathlib import Path

import budget_reference as ref
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import decayax as dx


RESULTS = Path(__file__).parents[1] / "experiments" / "results"
USUAL, LH, WA, TPP, REREAD, STUDY = (
    "usual recipes",
    "1/sqrt(steps)",
    "1 epoch to the run",
    "tokens/parameter",
    "few tokens re-read",
    "our study of text",
)
NANOGPT = {"learning_rate": 6e-4, "parameters": 124e6}
A = {**NANOGPT, "steps": 5086, "epochs": 1, "tokens": 2.5e9}
A_LONG = {**NANOGPT, "steps": 600_000, "epochs": 32.6, "tokens": 300e9}
B = {"learning_rate": 1e-3, "steps": 111_476, "epochs": 90}
B_LONG = {"learning_rate": 1e-3, "steps": 375_342, "epochs": 300}
C = {"learning_rate": 1e-3, "steps": 449, "batch": 128, "samples": 1437}


def rows(**run):
    """The weight decays of each rule that covers the run."""
    found = {row.rule: (row.low, row.high) for row in dx.advise(**run).rows}
    assert list(found) == [USUAL, LH, WA, TPP, REREAD, STUDY]
    return {rule: pair for rule, pair in found.items() if not math.isnan(pair[0])}


def digits(pair, count=2):
    return tuple(f"{value:.{count}g}" for value in pair)


# --- worked numbers ---------------------------------------------------------------


def test_loshchilov_and_hutter():
    """b 128, 50 000 images, 1500 epochs: 3.266e-5 for λ_norm = 0.025."""
    steps = round(1500 * 50_000 / 128)
    run = {"learning_rate": 0.05, "steps": steps, "epochs": 1500, "batch": 128}
    low, high = rows(**run)[LH]
    assert f"{0.05 * low:.3e}" == "3.266e-05"
    assert high / low == pytest.approx(2)
    expected = ref.loshchilov_hutter_rate(steps, 0.05)
    assert 0.05 * high == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (A, {USUAL: "0.1", LH: "0.58 1.2", WA: "0.33", TPP: "1.5 1.9"}),
        (A_LONG, {USUAL: "0.1", LH: "0.054 0.11", WA: "0.0028 0.091"}),
        (B, {USUAL: "0.1", LH: "0.075 0.15", WA: "0.009 0.81"}),
        (B_LONG, {USUAL: "0.1", LH: "0.041 0.082", WA: "0.0027 0.8"}),
        (C, {USUAL: "0.1", LH: "1.2 2.4", WA: "2.2 89"}),
    ],
    ids=["nanoGPT", "nanoGPT, long", "ViT-S", "ViT-S, long", "small MLP"],
)
def test_the_examples(run, expected):
    found = {rule: set(digits(pair)) for rule, pair in rows(**run).items()}
    assert found == {rule: set(text.split()) for rule, text in expected.items()}


def test_the_interval_of_example_a():
    found = dx.advise(**A)
    power = [ref.power_lines(2.5e9 / 124e6, c) for c in (0.96, 1.09)]
    tau_hats = [*power, ref.celerity(2.5e9 / 124e6)]
    low, high = rows(**A)[TPP]
    decays = [1 / (tau_hat * 5086 * 6e-4) for tau_hat in tau_hats]
    assert (low, high) == pytest.approx((min(decays), max(decays)), rel=1e-12)
    assert digits((low, high), 3) == ("1.46", "1.88")
    assert found.low == pytest.approx(1 / (5086 * 6e-4), rel=1e-12)
    assert found.high == pytest.approx(max(decays), rel=1e-12)
    assert digits(found.probe) == ("0.33", "0.78", "1.9")


@pytest.mark.parametrize(
    ("batch", "learning_rate", "decay", "printed"),
    [
        (126, 1.62e-2, 0.1, "0.026"),
        (252, 1.62e-2, 0.1, "0.053"),
        (504, 1.62e-2, 0.1, "0.105"),
        (1008, 1.62e-2, 0.1, "0.210"),
        (2016, 1.62e-2, 0.1, "0.420"),
        (504, 4.05e-3, 0.1, "0.420"),
        (504, 8.09e-3, 0.1, "0.210"),
        (504, 3.24e-2, 0.1, "0.053"),
        (504, 6.48e-2, 0.1, "0.026"),
        (504, 1.62e-2, 0.025, "0.420"),
        (504, 1.62e-2, 0.05, "0.210"),
        (504, 1.62e-2, 0.2, "0.053"),
        (504, 1.62e-2, 0.4, "0.026"),
    ],
)
def test_the_timescales_of_a_figure(batch, learning_rate, decay, printed):
    """2509.25087, figure 3: 610M parameters, 48.5e9 tokens, width 2048, base 256.

    The paper prints 0.421 where eq. (2) gives 0.4204: it has more digits of D.
    """
    tokens, context = 48.5e9, 2048
    steps = round(tokens / (batch * context))
    run = {"weight_decay": decay, "steps": steps}
    applied = dx.budget(learning_rate=learning_rate * 256 / 2048, **run)
    tau_hat = applied.timescale_steps / steps
    assert f"{tau_hat:.3f}" == printed
    expected = ref.tau_hat(learning_rate / 8, decay, batch * context, tokens)
    assert tau_hat == pytest.approx(expected, rel=1e-4)
    # Without the width factor of the learning rate it is 8 times too short.
    base = dx.budget(learning_rate=learning_rate, **run)
    assert f"{base.timescale_steps / steps:.3f}" != printed
    assert base.timescale_steps == pytest.approx(applied.timescale_steps / 8)


def test_the_exponent_of_celerity():
    """τ̂ 0.175, 0.087, 0.051 at 20, 80, 234 tokens per parameter."""
    steps, printed = 10_000, {20: 0.175, 80: 0.087, 234: 0.051}
    run = {"learning_rate": 1e-2, "steps": steps, "epochs": 1, "parameters": 1e9}
    for ratio, tau_hat in printed.items():
        high = rows(**run, tokens=ratio * 1e9)[TPP][1]
        assert 1 / (1e-2 * high * steps) == pytest.approx(tau_hat, rel=0.01)
    pairs = [(20, 80), (20, 234), (80, 234)]
    for few, many in pairs:
        exponent = math.log(printed[few] / printed[many]) / math.log(many / few)
        assert exponent == pytest.approx(0.5, abs=0.005)
        decays = [rows(**run, tokens=n * 1e9)[TPP][1] for n in (few, many)]
        found = math.log(decays[1] / decays[0]) / math.log(many / few)
        assert found == pytest.approx(exponent, abs=0.005)


# --- limits -----------------------------------------------------------------------


def seen(rule, **run):
    return {row.rule: row.seen for row in dx.advise(**run).rows}[rule]


RUN = {"learning_rate": 1e-3, "steps": 1000}


@pytest.mark.parametrize(
    ("ratio", "covered"), [(19.7, False), (19.9, True), (1280, True), (1281, False)]
)
def test_tokens_per_parameter_have_a_range(ratio, covered):
    run = {**RUN, "epochs": 1, "parameters": 1e6, "tokens": ratio * 1e6}
    assert (TPP in rows(**run)) is covered
    if not covered:
        assert seen(TPP, **run) == (
            f"not for this run: seen for 20 to 1280, here {ratio:.4g}"
        )


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"epochs": 1}, {LH, WA}),
        ({"regime": "one-pass"}, {LH, WA}),
        ({"epochs": 1, "optimizer": "sgdw"}, {LH}),
        ({"epochs": 8}, {LH, WA}),
        ({"regime": "re-read"}, {LH}),
        ({"epochs": 8, "optimizer": "sgdw"}, {LH}),
        ({"epochs": 3, "regime": "fine-tuning"}, set()),
        ({"epochs": 1, "parameters": 1e6, "tokens": 5e7}, {LH, WA, TPP}),
        ({"epochs": 8, "parameters": 1e6, "tokens": 5e7}, {LH, WA, REREAD}),
        (
            {"epochs": 8, "parameters": 1e6, "tokens": 5e7, "optimizer": "sgdw"},
            {LH},
        ),
    ],
)
def test_the_rules_that_cover_a_run(change, rules):
    run = {**RUN, **change}
    assert set(rows(**run)) == {USUAL, *rules}
    found = dx.advise(**run)
    for row in found.rows:
        assert row.seen
        assert math.isnan(row.low) == math.isnan(row.high)
    lines = [line for line in str(found).splitlines() if "not for this run" in line]
    assert len(lines) == 5 - len(rules)
    # One rule alone is not an interval: then what recipes use counts too.
    counting = rules if len(rules) > 1 else {USUAL, *rules}
    used = [rows(**run)[rule] for rule in counting]
    assert found.low == min(low for low, _ in used)
    assert found.high == max(high for _, high in used)
    middle = math.sqrt(found.low * found.high)
    assert found.probe == pytest.approx((found.low, middle, found.high), rel=1e-12)


def test_few_tokens_are_few():
    """Kim et al. re-read 200M tokens. 9.2e9 are not few."""
    assert REREAD not in rows(**A_LONG)


def test_there_is_no_single_value():
    assert not hasattr(dx.advise(**A), "value")


def test_two_of_batch_samples_and_epochs_are_enough():
    expected = dx.advise(**RUN, epochs=8)
    for run in (
        {"batch": 40, "samples": 5000},
        {"batch": 40, "samples": 5000, "epochs": 8},
        {"batch": 40, "epochs": 8},
        {"samples": 5000, "epochs": 8},
    ):
        assert str(dx.advise(**RUN, **run)) == str(expected)


TEXT = {"learning_rate": 2**-7, "steps": 1000, "parameters": 62_656}


@pytest.mark.needs_checkout
@pytest.mark.parametrize("epochs", [13.0, 25.6, 51.0])
def test_our_study_of_text(epochs):
    """The published optimum and exponent; nothing outside of its range."""
    report = (RESULTS / "strength" / "report.md").read_text()
    row = next(x for x in report.splitlines() if x.startswith("| text, re-read | ref"))
    optimum = 2 ** float(row.split("|")[3].split()[0])
    row = next(x for x in report.splitlines() if x.startswith("| text, re-read | ep"))
    exponents = [float(x) for x in re.findall(r"[+-]\d+\.\d+", row)[1:3]]
    found = rows(**TEXT, epochs=epochs, tokens=20_000 * epochs)[STUDY]
    expected = sorted(optimum * (epochs / 25.6) ** x for x in exponents)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [{"epochs": 12.0}, {"epochs": 60.0}, {"parameters": 2e4}, {"parameters": 2e5}]
    + [{"optimizer": "sgdw"}, {"tokens": None}, {"epochs": 1.0}],
)
def test_our_study_covers_nothing_else(change):
    run = {**TEXT, "epochs": 25.6, "tokens": 20_000 * 25.6}
    assert STUDY in rows(**run)
    assert STUDY not in rows(**{**run, **change})


def test_one_rule_alone_is_not_an_interval():
    """ResNet-50 of torch: 1/sqrt(steps) is the only rule; recipes use more."""
    found = dx.advise(learning_rate=0.1, steps=450_450, epochs=90, optimizer="sgdw")
    usual, rule, *_ = found.rows
    assert rule.high < usual.high
    assert (found.low, found.high) == (rule.low, usual.high)


def test_celerity_ends_at_234_tokens_per_parameter():
    run = {**RUN, "epochs": 1, "parameters": 1e6}
    low, high = rows(**run, tokens=300e6)[TPP]
    fractions = [c * 300**-0.527 for c in (1.09, 0.96)]
    assert (low, high) == pytest.approx([1 / x for x in fractions], rel=1e-12)


def test_one_pass_is_one_number():
    low, high = rows(**RUN, epochs=1)[WA]
    assert low == high == pytest.approx(1.0, rel=1e-12)
    low, high = rows(**RUN, epochs=0.5)[WA]  # a part of one pass
    assert low == high == pytest.approx(1.0, rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.floats(1e-5, 0.1), st.integers(1000, 10**6), st.floats(1.1, 50))
def test_weight_decays_times_the_learning_rate_are_the_rates(lr, steps, epochs):
    found = rows(learning_rate=lr, steps=steps, epochs=epochs)
    expected = ref.wang_aitchison_rates(steps, epochs)
    assert np.multiply(found[WA], lr) == pytest.approx(expected, rel=1e-12)
    expected = [ref.loshchilov_hutter_rate(steps, x) for x in (0.025, 0.05)]
    assert np.multiply(found[LH], lr) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "run",
    [
        {"learning_rate": 1e-3, "steps": 1000, "epochs": 1000},  # the full batch
        {"learning_rate": 0.1, "steps": 3, "epochs": 1, "parameters": 1e6}
        | {"tokens": 1e9},
        {"learning_rate": 0.9, "steps": 1000, "epochs": 5, "parameters": 1e6}
        | {"tokens": 1e8},
    ],
)
def test_no_advice_changes_the_sign_of_the_weights(run):
    """A budget refuses a rate above 1."""
    found = dx.advise(**run)
    dx.budget(learning_rate=run["learning_rate"], weight_decay=found.high, steps=3)


def test_a_step_reads_at_most_all_data():
    with pytest.raises(
        ValueError, match=r"^advise: epochs must be <= steps, got 5000 "
    ):
        dx.advise(learning_rate=1e-3, steps=1000, epochs=5000)


def test_the_nearest_recipe():
    """The usual weight decay, as in the recipe with the most similar timescale."""
    near = dx.recipes.nearest(1e-3 * 0.1, 111_476)
    at = "at 0.1 the timescale is 0.09 of the run"
    assert seen(USUAL, **B) == f"{at}; nearest: {near}"
    assert near.name.startswith("ViT-S/16, 90 epochs")


def test_the_notes():
    last = (
        "No rule covers LoRA (see dx.merged_lora_decay) or depth. The learning rate is "
        "the applied one: with muP, after the width factor."
    )
    assert dx.advise(**A).notes == (last,)
    assert dx.advise(**B).notes[1:] == (last,)
    assert "re-read" in dx.advise(**B).notes[0]
    fine = dx.advise(**RUN, epochs=3, regime="fine-tuning").notes
    assert "dx.decay_to_init" in fine[0]


def test_the_table():
    found = dx.advise(**A)
    assert found.table() == str(found) == repr(found)
    kept = (1 - 6e-4 * 0.1) ** 5086  # with a constant learning rate
    assert f"{kept:.2g}" == "0.74"
    lines = [line.rstrip() for line in found.table().splitlines()]
    assert lines == TABLE.strip().splitlines()


# Long lines: the table is wider than the code.
TABLE = "\n".join(
    (
        "learning rate 0.0006, 5,086 steps",
        "rule                weight decay  timescale, steps    of the run       ini"
        "t kept*",
        "usual recipes                0.1            17,000           3.3          "
        "   0.74",
        "1/sqrt(steps)        0.58 to 1.2    2,900 to 1,400  0.56 to 0.28    0.17 t"
        "o 0.028",
        "1 epoch to the run          0.33             5,100             1          "
        "   0.37",
        "tokens/parameter      1.5 to 1.9      1,100 to 890  0.22 to 0.17  0.011 to"
        " 0.0032",
        "interval: 0.33 to 1.9, a factor of 5.7",
        "probe: train with 0.33, 0.78 and 1.9 for all steps. If an end is best, go "
        "on in its direction.",
        "* at a constant learning rate; a schedule keeps more",
        "- usual recipes: at 0.1 the timescale is 3.3 of the run; nearest: Stable D"
        "iffusion v1-1: 2.3 times the run.",
        "- 1/sqrt(steps): seen on small images, SGDW and AdamW, cosine, 25 to 1800 "
        "epochs.",
        "- 1 epoch to the run: a guideline; seen on small images, and GPT-2 with 12"
        "4M parameters.",
        "- tokens/parameter: seen on 111M to 3.9B parameters, muP, learning rate li"
        "near to 0.",
        "- few tokens re-read: not for this run: seen for text that is re-read.",
        "- our study of text: not for this run: seen for text that is re-read.",
        "No rule covers LoRA (see dx.merged_lora_decay) or depth. The learning rate"
        " is the applied one: with muP, after the width factor.",
    )
)


# --- errors -----------------------------------------------------------------------

GOOD = {"learning_rate": 1e-3, "steps": 1000, "batch": 10.0, "samples": 1000.0}
GOOD |= {"parameters": 1e6, "tokens": 2e7}
NAMES = ["learning_rate", "batch", "samples", "epochs", "parameters", "tokens"]


def refused(error, message, **kwargs):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        dx.advise(**kwargs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("value", "got"), ref.NOT_POSITIVE)
def test_what_is_not_a_number(name, value, got):
    message = f"advise: {name} must be a finite number > 0, got {got}."
    refused(ValueError, message, **{**GOOD, name: value})


@pytest.mark.parametrize("name", ["batch", "samples", "parameters", "tokens"])
def test_a_number_that_is_not_needed_is_checked_too(name):
    message = f"advise: {name} must be a finite number > 0, got -1.0 of type float."
    refused(ValueError, message, **RUN, epochs=1, **{name: -1.0})


@pytest.mark.parametrize(
    "value", [*(value for value, _ in ref.NOT_POSITIVE), None, 0.5, 10.5]
)
def test_steps_that_are_not_a_count(value):
    """As for the budget: a whole number of at least 1."""
    with pytest.raises(
        (TypeError, ValueError), match=r"^advise: steps must be .*, got"
    ):
        dx.advise(**{**GOOD, "steps": value})


def test_the_learning_rate_is_required_and_a_number():
    message = "advise: learning_rate must be a finite number > 0, got None of type "
    refused(ValueError, message + "NoneType.", **{**GOOD, "learning_rate": None})
    with pytest.raises(ValueError, match="^advise: learning_rate must be .*function"):
        dx.advise(**{**GOOD, "learning_rate": lambda t: 0.1})


REGIMES = (
    "advise: regime must be one of 'one-pass', 're-read', 'fine-tuning', got {}. It "
    "may be left out if epochs, or batch and samples, are given."
)


@pytest.mark.parametrize(
    "change", [{}, {"batch": 5}, {"samples": 5}, {"parameters": 5, "tokens": 500}]
)
def test_the_number_of_epochs_or_the_regime_must_be_known(change):
    refused(ValueError, REGIMES.format("None of type NoneType"), **RUN, **change)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("x", "'x' of type str"),
        (3, "3 of type int"),
        (["re-read"], "['re-read'] of type list"),
        (np.ones(3), "array([1., 1., 1.]) of type ndarray"),
    ],
)
def test_regimes_and_optimizers_that_are_not_known(value, got):
    refused(ValueError, REGIMES.format(got), **GOOD, regime=value)
    message = f"advise: optimizer must be one of 'adamw', 'sgdw', got {got}."
    refused(ValueError, message, **GOOD, optimizer=value)


def test_numbers_that_contradict_each_other():
    message = (
        "advise: epochs must be steps * batch / samples = 10, got 7. Pass two of "
        "batch, samples and epochs."
    )
    refused(ValueError, message, **GOOD, epochs=7)
    message = (
        "advise: regime must be 're-read' or 'fine-tuning', got 'one-pass': the run "
        "reads its data 10 times."
    )
    refused(ValueError, message, **GOOD, regime="one-pass")


@pytest.mark.parametrize("name", [*NAMES, "steps"])
def test_traced_numbers_are_refused(name):
    def call(x):
        dx.advise(**{**GOOD, name: x})
        return x

    with pytest.raises(ValueError, match=rf"^advise: {name} must be .*, got .*Tracer"):
        jax.jit(call)(0.5)


def test_numbers_of_several_types():
    expected = dx.advise(**RUN, epochs=8).high
    for number in (np.int64(8), np.float32(8), jnp.float32(8.0), np.array(8.0)):
        assert dx.advise(**RUN, epochs=number).high == expected
