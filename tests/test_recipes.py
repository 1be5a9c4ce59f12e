"""Known recipes: the data is complete, and what follows from it is right."""

import csv
import math
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from decayax._budget import recipes
from decayax._budget.recipes import Recipe


FILE = Path(recipes.__file__).with_name("recipes.csv")
NAMES = [recipe.name for recipe in recipes.all()]
by_name = pytest.mark.parametrize("name", NAMES)


# --- the data ---------------------------------------------------------------------


def test_the_columns_of_the_file_are_the_fields():
    with FILE.open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == list(Recipe._fields)
    assert len(recipes.all()) == 36


@by_name
def test_a_row_is_complete(name):
    recipe = recipes.find(name)
    assert recipe.convention in ("lr-scaled", "independent", "L2 + momentum")
    assert isinstance(recipe.steps, int)
    assert recipe.steps >= 1
    assert recipe.sure in ("code", "paper", "second-hand", "derived")
    assert re.fullmatch(r"20[12]\d-(0[1-9]|1[0-2])", recipe.date)
    assert re.fullmatch(r"https://\S+", recipe.source)
    assert recipe.weight_decay >= 0
    assert 0 <= recipe.rate < 1
    assert (recipe.learning_rate > 0) or recipe.convention == "independent"
    assert math.isnan(recipe.batch) or (recipe.batch > 0 and recipe.unit)
    assert math.isnan(recipe.samples) or recipe.samples >= recipe.batch
    assert recipe.remark or recipe.sure != "derived"
    if recipe.convention == "L2 + momentum":
        assert 0 < recipe.momentum < 1


@by_name
def test_the_date_is_that_of_the_arxiv_number(name):
    recipe = recipes.find(name)
    number = re.search(r"arxiv\.org/abs/(\d\d)(\d\d)\.\d{5}$", recipe.source)
    assert number is None or recipe.date == f"20{number[1]}-{number[2]}"
    assert (number is None) or recipe.sure != "code"


@by_name
def test_a_schedule_is_well_formed(name):
    """A start, then pieces "shape end value" whose ends rise to the last step."""
    recipe = recipes.find(name)
    for schedule in filter(None, (recipe.schedule, recipe.decay_schedule)):
        start, *pieces = (piece.strip() for piece in schedule.split(";"))
        assert 0 <= float(start) <= 1
        parts = [
            re.fullmatch(r"(constant|linear|cosine) (\d+) (\S+)", x) for x in pieces
        ]
        assert all(parts)
        ends = [0, *(int(part[2]) for part in parts)]
        assert ends == sorted(set(ends))
        assert ends[-1] == recipe.steps
        values = [float(start), *(float(part[3]) for part in parts)]
        assert all(0 <= value <= 1 for value in values)
    assert recipe.schedule


def test_the_file_has_numbers_where_it_must():
    """Only what the loader does not need may be empty, which reads as NaN."""
    with FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert None not in row
            assert None not in row.values()
            for field in ("weight_decay", "steps"):
                assert float(row[field]) >= 0
            for field in ("learning_rate", "momentum", "batch", "samples"):
                assert row[field] == "" or float(row[field]) >= 0
            recipe = recipes.find(row["name"])
            assert math.isnan(recipe.momentum) is (row["momentum"] == "")
            assert math.isnan(recipe.batch) is (row["batch"] == "")


@by_name
def test_a_schedule_is_as_long_as_the_run_and_reaches_the_peak(name):
    recipe = recipes.find(name)
    for schedule in filter(None, (recipe.schedule, recipe.decay_schedule)):
        values = recipes._values(schedule, recipe.steps)
        assert values.shape == (recipe.steps,)
        assert values.dtype == np.float64
        assert values.max() == 1
        assert values.min() >= 0


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("nanoGPT", 32.6),
        ("BERT base", 40),
        ("ResNet-50", 90),
        ("BiT", 90),
        ("CIFAR", 200),
        ("DeiT", 300),
        ("90 epochs", 90),
        ("300 epochs", 300),
        ("ConvNeXt", 300),
        ("MAE", 800),
        ("CLIP", 32),
        ("DiT", 1400),
        ("LoRA", 5),
        ("MRPC", 3),
    ],
)
def test_steps_batch_and_samples_agree(name, passes):
    """Up to the last, smaller batch of each pass."""
    recipe = recipes.find(name)
    found = recipe.steps * recipe.batch / recipe.samples
    assert found == pytest.approx(passes, rel=3e-3)


# --- what follows -----------------------------------------------------------------


# rate, timescale, of the run, e-folds, init kept, last 20 %, half younger than: figures
# of an independent simulation of the same recipes.
FIGURES = """
nanoGPT 124M       | 6e-05    | 16,667    | 0.0278 | 19.8   | 2.5e-09 | 61% | 0.16
GPT-3 125M         | 6e-05    | 16,667    | 0.0278 | 17.6   | 2.2e-08 | 52% | 0.19
GPT-3 175B         | 6e-06    | 166,667   | 1.78   | 0.276  | 0.76    | 1%  | 0.72
GPT-NeoX-20B       | 9.7e-07  | 1,030,928 | 6.87   | 0.08   | 0.92    | 0%  | 0.70
BERT base          | 1e-06    | 1,000,000 | 1      | 0.5    | 0.61    | 2%  | 0.66
RoBERTa base       | 6e-06    | 166,667   | 0.333  | 1.5    | 0.22    | 6%  | 0.56
Llama 1 7B         | 3e-05    | 33,333    | 0.133  | 4.12   | 0.016   | 18% | 0.41
Llama 2 7B         | 3e-05    | 33,333    | 0.0667 | 8.25   | 0.00026 | 32% | 0.29
Llama 2 70B        | 1.5e-05  | 66,667    | 0.133  | 4.12   | 0.016   | 18% | 0.41
Llama 3 405B       | 8e-06    | 125,000   | 0.104  | 4.85   | 0.0078  | 8%  | 0.45
DeepSeek LLM 7B    | 4.2e-05  | 23,810    | 0.112  | 7.45   | 0.00058 | 31% | 0.24
DeepSeek-V2        | 2.4e-05  | 41,667    | 0.194  | 3.61   | 0.027   | 19% | 0.42
DeepSeek-V3        | 2.2e-05  | 45,455    | 0.193  | 4.32   | 0.013   | 24% | 0.29
Kimi K2            | 2e-05    | 50,000    | 0.216  | 3.88   | 0.021   | 24% | 0.30
OLMo-2 32B         | 6e-05    | 16,667    | 0.0215 | 25.6   | 7.9e-12 | 70% | 0.13
OLMo-3 7B          | 3e-05    | 33,333    | 0.028  | 19.7   | 2.9e-09 | 60% | 0.16
Celerity 3.9B      | 0.0004   | 2,479     | 0.175  | 2.86   | 0.057   | 11% | 0.47
Celerity 1.8B      | 0.00018  | 5,651     | 0.051  | 9.8    | 5.5e-05 | 32% | 0.27
ResNet-50          | ≈0.0001  | 10,000    | 0.0222 | 16.7   | 5.8e-08 | 9%  | 0.45
BiT R50            | 0.0016   | 625       | 0.0224 | 22.3   | 2e-10   | 27% | 0.26
90 epochs          | 0.0001   | 10,000    | 0.0897 | 5.57   | 0.0038  | 8%  | 0.41
300 epochs         | 0.0001   | 10,000    | 0.0269 | 18.6   | 8.5e-09 | 22% | 0.28
CLIP               | 0.0001   | 10,000    | 0.0256 | 19.5   | 3.3e-09 | 22% | 0.28
Stable Diffusion   | 1e-06    | 1,000,000 | 2.32   | 0.426  | 0.65    | 8%  | 0.44
LoRA GPT-2 M       | 2e-06    | 500,000   | 19     | 0.0263 | 0.97    | 0%  | 0.70
torch AdamW        | 1e-05    | 100,000   | 10     | 0.1    | 0.9     | 2%  | 0.49
"""
COMPUTED = (3, 5, 6, 8, 9, 10, 11)  # their columns in the table


def cells(recipe):
    row = recipes.table([recipe]).splitlines()[1]
    return re.split(r"\s{2,}", row.strip())


@pytest.mark.parametrize("line", FIGURES.strip().splitlines())
def test_the_figures_of_a_recipe(line):
    name, *figures = (cell.strip() for cell in line.split("|"))
    found = cells(recipes.find(name))
    assert [found[column] for column in COMPUTED] == figures


@pytest.mark.parametrize(
    ("name", "epochs", "digits"),
    [
        ("ResNet-50", 2.00, 2),
        ("BiT", 2.02, 2),
        ("DeiT", 16.0, 1),
        ("ConvNeXt", 16.0, 1),
        ("MAE", 26.6, 1),
        ("CIFAR", 5.12, 2),
        ("90 epochs", 8.07, 2),
        ("CLIP", 0.819, 3),
        ("LoRA", 95.1, 1),
        ("BERT base", 40, 6),
        ("Grokking", 1000, 6),
    ],
)
def test_the_timescale_in_epochs(name, epochs, digits):
    assert round(recipes.find(name).epochs, digits) == epochs


def test_the_length_of_lora_and_the_timescales_of_llama_2():
    assert recipes.find("LoRA").steps == 26_288
    fractions = [recipes.find(f"Llama 2 {n}B").timescale_fraction for n in (7, 70)]
    np.testing.assert_allclose(fractions, [0.0667, 0.1333], atol=5e-5)


def optax_schedule(name):
    """The multiples of the peak, by Optax."""
    return {
        "nanoGPT": optax.warmup_cosine_decay_schedule(0, 1, 2000, 600_000, 0.1),
        "DeiT": optax.warmup_cosine_decay_schedule(0, 1, 6255, 375_300, 0.01),
        "BERT base": optax.join_schedules(
            [optax.linear_schedule(0, 1, 10_000), optax.linear_schedule(1, 0, 990_000)],
            [10_000],
        ),
        "ResNet-50": optax.piecewise_constant_schedule(
            1.0, {150_150: 0.1, 300_300: 0.1}
        ),
        "PPO": optax.linear_schedule(1, 0, 156_240),
        "CIFAR": optax.cosine_decay_schedule(1.0, 78_200),
    }[name]


@pytest.mark.parametrize(
    "name", ["nanoGPT", "DeiT", "BERT base", "ResNet-50", "PPO", "CIFAR"]
)
@pytest.mark.relaxed("schedules")
def test_schedules_are_those_of_optax(name):
    recipe = recipes.find(name)
    some = np.unique(np.linspace(0, recipe.steps - 1, 500).astype(np.int32))
    # Optax drops the learning rate of piecewise_constant_schedule one step later.
    some = some[~np.isin(some, (150_150, 300_300))]
    expected = jax.vmap(optax_schedule(name))(some)
    found = recipes._values(recipe.schedule, recipe.steps)[some]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_decay_of_nanochat_follows_its_own_schedule_too():
    recipe = recipes.find("nanochat")
    step = 4000
    lr = 1 - 0.95 * (step - 1949) / (5568 - 1949)
    decay = 0.5 * (1 + math.cos(math.pi * step / 5568))
    expected = 0.0282843 * 0.059738 * lr * decay
    assert recipes._rates(recipe)[step] == pytest.approx(expected, rel=1e-12)


def recipe(name="a", rate=0.1, steps=100, **changes):
    return Recipe(
        **{
            "name": name,
            "convention": "independent",
            "learning_rate": math.nan,
            "momentum": math.nan,
            "weight_decay": rate,
            "batch": math.nan,
            "unit": "",
            "samples": math.nan,
            "steps": steps,
            "schedule": f"1; constant {steps} 1",
            "decay_schedule": "",
            "date": "2020-01",
            "sure": "derived",
            "source": "https://example.org",
            "remark": "an example",
            **changes,
        }
    )


def test_shares_by_the_recursion_of_a_weight():
    """θ ← (1 − rate_t) θ + rate_t q_t, with one unit vector q_t for each step."""
    steps = 50
    schedule = "0; linear 5 1; constant 30 1; cosine 50 0.2"
    example = recipe(rate=0.08, steps=steps, schedule=schedule)
    rates = recipes._rates(example)
    theta = np.eye(1, steps + 1)[0]
    for step, rate in enumerate(rates):
        theta = (1 - rate) * theta + rate * np.eye(steps + 1)[step + 1]
    init, shares = theta[0], theta[1:]
    assert example.init_kept == pytest.approx(init, rel=1e-12)
    assert example.e_folds == pytest.approx(-np.log1p(-rates).sum(), rel=1e-12)
    assert example.last_fifth == pytest.approx(shares[-10:].sum(), rel=1e-12)
    age = int(example.half_age)
    half = 0.5 * (1 - init)
    assert shares[steps - age :].sum() >= half > shares[steps - age + 1 :].sum()


def test_l2_with_momentum_decays_at_its_slow_mode():
    example = recipes.find("ResNet-50")
    theta, velocity, sizes = 1.0, 0.0, []
    for _ in range(3000):
        velocity = example.momentum * velocity + example.weight_decay * theta
        theta -= example.learning_rate * velocity
        sizes.append(theta)
    rate = 1 - (sizes[-1] / sizes[1000]) ** (1 / 1999)
    assert rate == pytest.approx(1.0009e-4, rel=1e-4)
    assert example.rate == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("name", ["DiT", "PPO"])
def test_without_decay_there_is_no_timescale(name):
    none = recipes.find(name)
    assert (none.rate, none.timescale_steps, none.init_kept) == (0, math.inf, 1)
    assert (none.e_folds, none.last_fifth) == (0, 0)
    assert math.isnan(none.half_age)
    assert str(none) == f"{none.name}: no decay"
    found = cells(none)
    assert [found[column] for column in COMPUTED] == list("0--01") + ["0%", "-"]


# --- nearest ----------------------------------------------------------------------


@pytest.fixture
def known(monkeypatch):
    """A table of four recipes."""
    rows = (
        recipe("none", 0.0, 100),
        recipe("long", 0.001, 10_000),  # a tenth of the run
        recipe("short", 0.1003, 100),  # a tenth, too: 0.3 % less
        recipe("weak", 0.001, 100),  # ten runs
    )
    monkeypatch.setattr(recipes, "all", lambda: rows)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("rate", "steps", "name"),
    [
        (0.001, 10_000, "long"),
        (0.09, 110, "short"),
        (0.0009, 120, "weak"),
        # Two recipes with a tenth of the run: the nearer rate wins.
        (0.1, 100, "short"),
        (0.011, 1000, "short"),
        (0.009, 1000, "long"),
        (1e-9, 1, "weak"),  # and not the one without decay
    ],
)
def test_the_nearest_recipe_has_the_nearest_fraction(rate, steps, name):
    found = recipes.nearest(rate, steps)
    assert (type(found), found.name) == (Recipe, name)


@pytest.mark.parametrize(
    ("rate", "steps", "text"),
    [
        (5e-5, 375_300, "DeiT-S: 16 epochs, 0.053 of the run"),
        (2e-4, 93_600, "ConvNeXt-T: 16 epochs, 0.053 of the run"),
        (3e-5, 250_000, "Llama 1 7B: 0.13 of the run"),
        (6e-6, 93_750, "GPT-3 175B: 1.8 times the run"),
    ],
)
def test_the_nearest_of_the_table(rate, steps, text):
    assert str(recipes.nearest(rate, steps)) == text


@by_name
def test_a_recipe_is_nearest_to_itself(name):
    """Or another one with the same timescale, to one per cent, and the same rate."""
    own = recipes.find(name)
    if own.rate == 0:
        pytest.skip("no decay")
    found = recipes.nearest(own.rate, own.steps)
    assert found.timescale_fraction == pytest.approx(own.timescale_fraction, rel=0.011)
    assert found.rate == pytest.approx(own.rate, rel=1e-9)


@pytest.mark.parametrize(
    "run", [(0.0, 10), (1.0, 10), (-1e-4, 10), (math.nan, 10), (0.1, 0), (0.1, -1)]
)
def test_a_run_without_a_timescale_is_refused(run):
    with pytest.raises(ValueError, match=r"^recipes.nearest: (rate|steps) must be "):
        recipes.nearest(*run)


@pytest.mark.parametrize(
    "run", [("0.1", 10), (0.1, "10"), (None, 10), (0.1, None), (1j, 10), (0.1, 1.5)]
)
def test_a_run_that_is_not_two_numbers_is_refused(run):
    with pytest.raises((TypeError, ValueError), match=r"^recipes\.nearest: .*, got "):
        recipes.nearest(*run)


# --- find, table, reading -----------------------------------------------------------


@by_name
def test_each_name_finds_its_recipe(name):
    assert recipes.find(name).name == name
    assert recipes.find(name.upper()).name == name


def test_a_name_that_fits_several_or_none():
    message = "got 'llama', which fits 4. Pass one of: Llama 1 7B; Llama 2 7B; .*405B.$"
    with pytest.raises(ValueError, match=message):
        recipes.find("llama")
    message = "recipes.find: .* got 'AlexNet', which fits 0. Pass one of: nanoGPT"
    with pytest.raises(ValueError, match=message):
        recipes.find("AlexNet")


def test_the_table_shows_all_recipes_in_aligned_columns():
    header, *rows = recipes.table().splitlines()
    assert [row.split("  ")[0].strip() for row in rows] == NAMES
    ends = header.index("half younger than") + len("half younger than")
    assert all(row[ends] == " " and row[ends - 1] in "0123456789-" for row in rows)
    assert not re.search(r"\b(nan|inf|None)\b", recipes.table())
    assert recipes.table([]).split("  ")[0] == "recipe"
