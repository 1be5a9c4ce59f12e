"""Modular addition: the looks, the split, the effective rank."""

import functools

import numpy as np
import pytest


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("the experiments run under JAX's defaults"),
]


def setup(**numbers):
    from experiments.addition import Addition
    from experiments.data import modular
    from experiments.models.pair_mlp import pair_mlp

    fields = {"train_size": 60, "classes": 11, "steps": 20, "look_every": 5}
    return Addition(
        data=functools.partial(modular.load, 11),
        model=functools.partial(pair_mlp, 12, 11, 8, 16),
        **fields | numbers,
    )


def looked(accuracy, step, arrived, **numbers):
    """The look at this step, if `accuracy` of the held-out pairs are right."""
    import jax
    import jax.numpy as jnp

    from experiments.addition import Looks
    from experiments.models.model import Model

    made = setup(**numbers)
    data = made.load()
    split = made._run_data({"seed": 0}, data)
    count = round(accuracy * len(split.val_rows))
    labels = jnp.asarray(data.pool_y)[split.val_rows]
    said = labels.at[count:].add(1) % 11
    model = Model(lambda key: None, lambda params, x: jax.nn.one_hot(said, 11))
    state = Looks(jnp.int32(step), jnp.int32(arrived))
    return int(made._look(model, None, state, split, data).arrived)


@pytest.mark.parametrize(
    ("accuracy", "step", "before", "after"),
    [
        (1.0, 10, -1, 10),
        (1.0, 11, -1, -1),  # not a look
        (1.0, 0, -1, -1),
        (0.98, 10, -1, -1),
        (1.0, 15, 10, 10),  # the first look counts
        (0.0, 15, 10, 10),
        (1.0, 20, -1, 20),
    ],
)
def test_the_first_look_above_the_threshold_counts(accuracy, step, before, after):
    assert looked(accuracy, step, before) == after


def test_every_pair_is_in_one_part_and_seeds_differ():
    made = setup()
    data = made.load()
    assert len(data.pool_y) == 121
    np.testing.assert_array_equal(data.pool_x[:, :2].sum(1) % 11, data.pool_y)
    parts = [made._run_data({"seed": seed}, data) for seed in (0, 1)]
    for part in parts:
        rows = np.concatenate([part.train_rows, part.val_rows])
        assert len(part.train_rows) == 60
        assert sorted(rows.tolist()) == list(range(121))
    assert set(parts[0].val_rows.tolist()) != set(parts[1].val_rows.tolist())


@pytest.mark.parametrize(
    ("numbers", "match"),
    [({"steps": 21}, "multiple of look_every=5"), ({"train_size": 121}, "1 to 120")],
)
def test_impossible_sizes_are_refused(numbers, match):
    from experiments.errors import UserError

    with pytest.raises(UserError, match=match):
        setup(**numbers).load()


def test_the_effective_rank_of_known_matrices():
    from experiments.addition import effective_ranks

    rng = np.random.default_rng(0)
    orthogonal, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    params = {
        "orthogonal": 3 * orthogonal,
        "one": np.outer(np.arange(1, 4), np.ones(4)),
        "two": np.diag([1.0, 3.0]),
        "tensor": np.ones((2, 3, 4)),
        "bias": np.ones(4),
    }
    found = {n: float(x) for n, x in effective_ranks(params).items()}
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    expected = {
        "orthogonal": 5,
        "one": 1,
        "two": np.exp(entropy),
        "tensor": 1,
    }
    assert found == pytest.approx(
        {f"rank of {name}": x for name, x in expected.items()}, rel=1e-4
    )


@pytest.mark.parametrize(("threshold", "steps", "arrived"), [(0.0, 5, 1), (1.1, 20, 0)])
def test_a_run_counts_its_steps_and_fits_the_training_pairs(threshold, steps, arrived):
    from experiments import arms, terminal
    from experiments.engine.compilation_cache import new_cache
    from experiments.engine.config import constant, StaticConfig, SweepGroup
    from experiments.engine.training import train_chunk

    config = StaticConfig(setup(threshold=threshold), arms.adamw, 4, 4, constant)
    cells = tuple(
        {"learning_rate": 0.1, "weight_decay": 0.0, "seed": seed} for seed in (0, 1)
    )
    group = SweepGroup({}, config, cells)
    found = train_chunk(new_cache(), group, cells, 2, terminal.SILENT)
    assert found["measure/steps"].ravel().tolist() == [steps] * 2
    assert found["measure/arrived"].ravel().tolist() == [arrived] * 2
    assert (found["measure/train_accuracy"] == 1).all()
    accuracy = found["measure/held_out_accuracy"].ravel()
    expected = [steps] * 2 if arrived else steps * (2 - accuracy)
    penalised = found["measure/penalised_steps"].ravel()
    np.testing.assert_allclose(penalised, expected, rtol=1e-6)
