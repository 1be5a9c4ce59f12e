"""The norm of each leaf at the end of training, and the norm that its decay predicts.

Every run decays all leaves. It starts from the initial weights times a factor. The last
step of each epoch is measured by `dx.track_decay`. The sums of these measurements are
averaged over the last part of the run, because those of a single step fluctuate.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx
from experiments.engine import devices
from experiments.engine.compilation_cache import CompilationCache
from experiments.engine.training import Progress
from experiments.networks import compiled_once, Kinds, loss_of, Network, norms_of


MakeOptimizer = Callable[..., optax.GradientTransformation]  # γ, weight_decay=λ
ENTRIES = ("weight_norm", "equilibrium_norm", "angle")  # of dx.decay_stats
MEASURED = 0.25  # of the run, at its end


class Trainer(NamedTuple):
    """One optimizer on one network, compiled for many runs in parallel."""

    begin: Callable[..., Any]  # cells -> carry
    # cells, carry, epoch, data -> carry, norms [cells, leaves], loss [cells]
    epoch: Callable[..., Any]
    data: Any


class Trained(NamedTuple):
    """Some runs. All arrays begin with the axis of the runs."""

    params: Any
    tracked: Any  # the state of track_decay, its sums averaged over the end of the run
    norms: np.ndarray  # [runs, epochs + 1, leaves]
    losses: np.ndarray  # [runs, epochs]: of training, means over each epoch


def trainer(
    cache: CompilationCache,
    network: Network,
    make_optimizer: MakeOptimizer,
    parallel: int,
) -> Trainer:
    """Return the programs for `parallel` cells.

    A cell has the numbers `seed`, `start`, `learning_rate` and `weight_decay`.
    """
    sharded, replicated = devices.spread_over_devices(parallel)
    shards = sharded, sharded, replicated, replicated
    begin = jax.vmap(functools.partial(_begin, network, make_optimizer))
    epoch = jax.vmap(
        functools.partial(_epoch, network, make_optimizer), (0, 0) + (None,) * 2
    )
    return Trainer(
        begin=compiled_once(cache, begin, in_shardings=sharded, out_shardings=sharded),
        epoch=compiled_once(cache, epoch, in_shardings=shards, out_shardings=sharded),
        data=jax.device_put(network.data, replicated),
    )


def _optimizers(make_optimizer: MakeOptimizer, cell: Mapping[str, Any]) -> Any:
    rate, decay = cell["learning_rate"], cell["weight_decay"]
    optimizer = make_optimizer(rate, weight_decay=decay)
    return optimizer, dx.track_decay(optimizer, every=1)


def _begin(
    network: Network, make_optimizer: MakeOptimizer, cell: Mapping[str, Any]
) -> Any:
    params = jax.tree.map(lambda x: x * cell["start"], network.init(cell["seed"]))
    _, tracked = _optimizers(make_optimizer, cell)
    return params, tracked.init(params)


def _epoch(
    network: Network,
    make_optimizer: MakeOptimizer,
    cell: Mapping[str, Any],
    carry: Any,
    number: Any,
    data: Any,
) -> Any:
    """Train an epoch; only its last step is measured, which takes as long as ten."""
    optimizer, tracked = _optimizers(make_optimizer, cell)
    gradient = jax.value_and_grad(functools.partial(loss_of, network))

    def step(carry: Any, examples: Any) -> Any:
        params, state = carry
        loss, grads = gradient(params, *examples)
        updates, inner = optimizer.update(grads, state.inner, params)
        params = optax.apply_updates(params, updates)
        return (params, state._replace(inner=inner)), loss

    examples = network.examples(cell["seed"], number, data)
    before, last = (
        jax.tree.map(lambda x, i=i: x[i], examples) for i in (slice(-1), -1)
    )
    (params, state), losses = jax.lax.scan(step, carry, before)
    loss, grads = gradient(params, *last)
    updates, state = tracked.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), norms_of(params), jnp.append(losses, loss).mean()


def train(
    made: Trainer, cells: Mapping[str, np.ndarray], epochs: int, progress: Progress
) -> Trained:
    """Train these cells."""
    carry = made.begin(cells)
    norms, losses, sums = [norms_of(carry[0], 1)], [], []
    for number in range(epochs):
        carry, norm, loss = made.epoch(cells, carry, np.int32(number), made.data)
        norms.append(norm)
        losses.append(loss)
        progress.advance(0)  # checks for signals
        if number >= int((1 - MEASURED) * epochs):
            sums.append(carry[1].sums)
    params, state = carry
    mean = jax.tree.map(lambda *x: np.mean(np.stack(x), 0, np.float64), *sums)
    return Trained(
        params, state._replace(sums=mean), np.stack(norms, 1), np.stack(losses, 1)
    )


def equilibrium(trained: Trained, kinds: Kinds) -> dict[str, np.ndarray]:
    """The entries of `dx.decay_stats` by leaf, [runs, leaves], and by shared group."""
    found = {}
    stats = dx.decay_stats(trained.tracked)
    for entry in ENTRIES:
        columns = [stats[f"{path}/{entry}"] for path in kinds.paths]
        found[entry] = np.stack(columns, 1).astype(np.float32)
    shared = kinds.shared()
    if shared:
        stats = dx.decay_stats(
            trained.tracked, groups=lambda path: shared.get(path, "")
        )
        for entry in ENTRIES:
            columns = [
                stats[f"{name}/{entry}"] for name in dict.fromkeys(shared.values())
            ]
            found[f"group/{entry}"] = np.stack(columns, 1).astype(np.float32)
    return found
