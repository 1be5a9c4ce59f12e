"""What recipes make of data and model: losses and measures, calculated by NumPy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.special import logsumexp


nnx = pytest.importorskip("flax.nnx")
pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("the experiments run under JAX's defaults"),
]


def classification(model, data, **changes):
    from experiments.tasks import Classification

    options = {"classes": 3, "train_size": 8, "batch": 4} | changes
    return Classification(data=data, model=model, **options)


def loaded(setup):
    return jax.tree.map(jnp.asarray, setup.load())


def first_rows_train(setup, data):
    """A run_data without the random numbers of a seed, which take long to compile."""
    from experiments.data.labelled import Split
    from experiments.tasks import RunData

    rows = jnp.arange(len(data.pool_y))
    train, val = rows[: setup.train_size], rows[setup.train_size :]
    return RunData(Split(train, data.pool_y[train], val), None)


# --- Text -------------------------------------------------------------------------

SYMBOLS = 5
TABLE = np.random.default_rng(0).normal(0, 2, (SYMBOLS, SYMBOLS)).astype(np.float32)


def tokens(seed, count):
    """The second half has other symbols than the first."""
    draw = np.random.default_rng(seed).integers
    halves = draw(0, 2, count // 2), draw(2, SYMBOLS, count - count // 2)
    return np.concatenate(halves).astype(np.int32)


TEXT = {1: 40, 2: 22, 3: 21}  # the parts: seed and number of tokens


def text():
    from experiments.data.corpus import Corpus, Part

    parts = [Part(tokens(n, size), np.array([size])) for n, size in TEXT.items()]
    return Corpus(*parts, "abcde")


def bigrams():
    """The table itself is the parameters: a row of logits to each symbol."""
    from experiments.models.model import Model

    def logits(params, x):
        return params["kernel"][x]

    return Model(lambda key: {"kernel": jnp.asarray(TABLE)}, logits)


def language(**changes):
    from experiments.tasks import Language

    options = {"symbols": SYMBOLS, "length": 4, "batch": 3, "steps_per_epoch": 2}
    return Language(data=text, model=bigrams, **(options | changes))


def losses(windows):
    """-log p of each next symbol."""
    logs = TABLE - np.log(np.exp(TABLE.astype(float)).sum(1, keepdims=True))
    return -logs[windows[:, :-1], windows[:, 1:]]


def test_a_text_is_evaluated_on_windows_from_all_over_each_part():
    setup = language(evaluated=3)
    task = setup.task()
    params = task.init({"seed": 0})
    found = jax.jit(task.measure)(params, (), None, loaded(setup))
    # A window has 5 symbols: the last one begins 5 before the end.
    places = {"train": (0, 17, 35), "val": (0, 8, 17), "test": (0, 8, 16)}
    for part, starts in places.items():
        data = getattr(text(), part).tokens
        by_hand = losses(np.array([data[place : place + 5] for place in starts]))
        assert float(found[f"{part}_loss"]) == pytest.approx(by_hand.mean(), rel=1e-5)
        assert abs(by_hand[:2].mean() / by_hand.mean() - 1) > 0.05
    assert len({float(found[f"{part}_loss"]) for part in places}) == 3
    assert set(found) == {"train_loss", "val_loss", "test_loss", "max_abs_w", "rms_w"}


def test_a_text_is_trained_on_its_first_part_and_guessed_by_chance():
    setup = language()
    task, data = setup.task(), loaded(setup)
    windows = np.asarray(task.batches(1, 0, data))
    assert windows.shape == (2, 3, 5)
    joined = " ".join(map(str, text().train.tokens))
    for window in windows.reshape(-1, 5):
        assert " ".join(map(str, window)) in joined
    params = task.init({"seed": 0})
    found, state = task.loss(params, (), windows[0], None, None, data)
    assert state == ()
    assert float(found) == pytest.approx(losses(windows[0]).mean(), rel=1e-5)
    guess = pytest.approx(math.log(SYMBOLS))
    assert task.chance == {"val_loss": guess, "test_loss": guess}
    assert task.steps_per_epoch == 2


def test_a_text_with_more_symbols_than_the_model_is_refused():
    from experiments.errors import UserError

    with pytest.raises(UserError, match="the text has 5 symbols, but symbols=4"):
        language(symbols=4).load()


# --- Classes ----------------------------------------------------------------------


def sequences():
    """The class is the last symbol; the first one is always another."""
    from experiments.data.labelled import Labelled

    x = np.array([[(k + 1) % 3, k // 3 % 3, k % 3] for k in range(20)], np.int32)
    return Labelled(x[:12], x[:12, -1], x[12:], x[12:, -1])


def copying():
    """Logits that say of each symbol what it is."""
    from experiments.models.model import Model

    def logits(params, x):
        return params["kernel"][x]

    return Model(lambda key: {"kernel": 4 * jnp.eye(3)}, logits)


def test_the_class_of_a_sequence_is_read_at_its_last_symbol():
    setup = classification(copying, sequences)
    task, data = setup.task(), loaded(setup)
    run_data, params = first_rows_train(setup, data), task.init({"seed": 0})
    measured = jax.jit(task.measure)(params, (), run_data, data)
    sure = -math.log(math.exp(4) / (math.exp(4) + 2))
    for on in ("train_loss", "val_loss", "test_loss"):
        assert float(measured[on]) == pytest.approx(sure, rel=1e-5)
    assert measured["test_accuracy"] == measured["val_accuracy"] == 1
    loss, _ = task.loss(params, (), jnp.arange(4), None, run_data, data)
    assert float(loss) == pytest.approx(sure, rel=1e-5)


def test_the_sizes_of_the_decayed_weights():
    from experiments.tasks import weight_sizes

    params = {"kernel": jnp.array([[3.0, -4.0], [0.0, 0.0]]), "bias": jnp.full(2, 9.0)}
    found = {name: float(value) for name, value in weight_sizes(params).items()}
    assert found == pytest.approx({"max_abs_w": 4.0, "rms_w": 2.5})


# --- Averages of the weights ------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_measures_are_of_the_average_of_the_weights(dtype):
    """At the start and after each of three steps of any optimizer."""
    decay = 0.75
    setup = classification(copying, sequences, ema=decay, dtype=dtype)
    plain = classification(copying, sequences, dtype=dtype).task()
    task, data = setup.task(), loaded(setup)
    hparams = {"seed": 0}
    run_data, params = first_rows_train(setup, data), task.init(hparams)
    state = task.state(hparams, params)
    average = np.float64(params["kernel"])
    measure, measure_plain = (jax.jit(each.measure) for each in (task, plain))
    for step in range(4):
        expected = {"kernel": jnp.asarray(average, dtype)}
        found = measure(params, state, run_data, data)
        for name, value in measure_plain(expected, (), run_data, data).items():
            assert float(found[name]) == pytest.approx(float(value), rel=1e-5)
        _, state = task.loss(params, state, jnp.arange(4), None, run_data, data)
        moved = params["kernel"] * (1 + step) + 0.5 * jnp.arange(3)
        params = {"kernel": moved.astype(dtype)}
        average = decay * average + (1 - decay) * np.float64(params["kernel"])
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_an_average_leaves_the_training_as_it_is():
    setups = [classification(copying, sequences, ema=x) for x in (0.0, 0.9)]
    tasks, data = [setup.task() for setup in setups], loaded(setups[0])
    hparams = {"seed": 0}
    run_data, params = first_rows_train(setups[0], data), tasks[0].init(hparams)
    (value, state), gradient = jax.value_and_grad(tasks[0].loss, has_aux=True)(
        params, (), jnp.arange(4), None, run_data, data
    )
    (other, _), other_gradient = jax.value_and_grad(tasks[1].loss, has_aux=True)(
        *(params, tasks[1].state(hparams, params), jnp.arange(4), None, run_data, data)
    )
    assert state == ()
    assert value == other
    np.testing.assert_array_equal(gradient["kernel"], other_gradient["kernel"])


@pytest.mark.parametrize("ema", [1.0, -0.1, 1.5])
def test_a_decay_of_the_average_that_is_none_is_refused(ema):
    from experiments.errors import UserError

    with pytest.raises(UserError, match=f"ema={ema}: pass 0, or a decay"):
        classification(copying, sequences, ema=ema).load()


# --- A network with BatchNorm, in the engine --------------------------------------


class Network(nnx.Module):
    def __init__(self, dropout=0.0, *, rngs):
        self.hidden = nnx.Linear(64, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.8, rngs=rngs)
        self.drop = nnx.Dropout(dropout, rngs=rngs) if dropout else nnx.identity
        self.output = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.hidden(x)))
        return self.output(self.drop(x))


def network(dropout=0.0):
    from experiments.models.model import from_nnx

    return from_nnx(lambda rngs: Network(dropout, rngs=rngs))


def digits(model, **changes):
    from experiments.data import digits

    options = {"classes": 10, "train_size": 100, "batch": 50} | changes
    return classification(model, digits.load, **options)


def plain_sgd(hparams, eta, mask):
    return optax.sgd(hparams["learning_rate"])


def mean_loss(network, x, y):
    logits = network(x)
    right = jnp.take_along_axis(logits, y[:, None], -1)[:, 0]
    return (logsumexp(logits, -1) - right).mean()


@nnx.jit
def step_by_hand(module, average, x, y, rate, ema):
    """SGD that changes the module in place; returns the new average."""
    gradient = nnx.grad(mean_loss)(module, x, y)
    params = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda p, g: p - rate * g, params, gradient))
    return jax.tree.map(
        lambda m, x: ema * m + (1 - ema) * x, average, nnx.state(module)
    )


def trained_by_hand(setup, hparams, split, batches):
    """The test loss of the averaged network, as a user of Flax gets it."""
    from experiments.seeds import key_for, Purpose

    data, key = loaded(setup), key_for(hparams["seed"], Purpose.INIT)
    module = nnx.jit(lambda: Network(rngs=nnx.Rngs(key)))()
    average = jax.tree.map(jnp.copy, nnx.state(module))
    for batch in batches:
        x, y = data.pool_x[split.train_rows[batch]], split.train_y[batch]
        rate = hparams["learning_rate"]
        average = step_by_hand(module, average, x, y, rate, setup.ema)
    nnx.update(module, average)
    module.eval()
    return float(mean_loss(module, data.test_x, data.test_y))


@pytest.mark.slow
def test_a_network_with_batch_norm_trains_as_a_loop_in_flax_does():
    from experiments.engine import compilation_cache, program
    from experiments.engine.config import (
        columns,
        constant,
        grid,
        StaticConfig,
        SweepGroup,
    )
    from experiments.engine.training import train_chunk
    from experiments.terminal import SILENT

    setup, cache = digits(network, ema=0.6), compilation_cache.new_cache()
    cells = grid(learning_rate=(0.1, 0.5), weight_decay=[0.0], seed=[2])
    group = SweepGroup({}, StaticConfig(setup, plain_sgd, 4, 2, constant), cells)
    found = train_chunk(cache, group, cells, 2, SILENT)
    assert not found["measure/diverged"].any()
    numbers = columns(cells)
    made = compilation_cache.get_program(cache, group.config, numbers, 2)
    _, run_data, _ = program.start(made, numbers)
    halves = [
        compilation_cache.get_batches(cache, made, numbers["seed"], k) for k in (0, 2)
    ]
    batches = np.concatenate(halves, 1)
    for row, hparams in enumerate(cells):
        split = jax.tree.map(lambda x: np.asarray(x)[row], run_data.split)  # noqa: B023
        by_hand = trained_by_hand(setup, hparams, split, batches[row])
        loss = found["measure/test_loss"][row, 0]
        assert loss == pytest.approx(by_hand, rel=1e-4)


def test_the_key_of_a_step_decides_what_is_dropped():
    setup = digits(functools.partial(network, 0.5))
    task, data = setup.task(), loaded(setup)
    hparams = {"seed": 0}
    run_data, params = first_rows_train(setup, data), task.init(hparams)
    state = task.state(hparams, params)

    @jax.jit
    def loss(key):
        batch = jnp.arange(50)
        return task.loss(params, state, batch, key, run_data, data)[0]

    one, same, other = (float(loss(jax.random.key(seed))) for seed in (0, 0, 1))
    assert one == same != other
