r"""Decay on some leaves, and the learning-rate schedule that does the same.

Let a = 1 - γλ, and let g be the gradient of a function that does not depend on the
scale of θ, so g(cθ) = g(θ)/c. SGD with decay is θ ← aθ - γ g(θ). The weights φ = θ/a^t
are a run without decay, with another learning rate:

    φ ← φ - γ a^-(2t+1) g(φ)

With momentum the buffer of φ is a^t times that of θ. So the two runs are equal if
momentum becomes μa. For Adam:

    φ ← φ - γ a^-(t+1) u(φ),    β₁ becomes β₁a, β₂ becomes β₂a²

where the weights 1 - β of new gradients and the bias corrections keep their old β. Here
`bias` corrects those of `optax.scale_by_adam`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx
from experiments.engine import devices
from experiments.engine.compilation_cache import CompilationCache
from experiments.networks import compiled_once, INVARIANT, loss_of, Network


SGD, MOMENTUM, ADAM = "SGD", "momentum", "Adam"
OTHER = "other"  # all leaves that are not invariant
MOMENTUM_BETA = 0.9
B1, B2, EPS = 0.9, 0.99, 1e-30  # Adam's ε would break the symmetry
NONE, DECAY, MATCHED, EXACT = "no decay", "decay", "matched rate", "matched rate and β"


class Run(NamedTuple):
    """A base optimizer, the leaves that are treated, and how."""

    base: str  # SGD, momentum or Adam
    leaves: str  # invariant or other
    arm: str

    @property
    def momentum(self) -> float:
        """The momentum of SGD; Adam does not use it."""
        return MOMENTUM_BETA if self.base == MOMENTUM else 0.0


def runs_of(base: str) -> list[Run]:
    """All runs that share a program: SGD with and without momentum, or Adam."""
    arms = {SGD: (DECAY, MATCHED), MOMENTUM: (DECAY, MATCHED, EXACT)}
    arms = {ADAM: arms[MOMENTUM]} if base == ADAM else arms
    runs = [
        Run(each, leaves, arm)
        for each, names in arms.items()
        for leaves in (INVARIANT, OTHER)
        for arm in names
    ]
    return [Run(each, INVARIANT, NONE) for each in arms] + runs


class Arm(NamedTuple):
    """One way to train, as numbers that may be traced."""

    weight_decay: Any  # λ of the chosen leaves
    growth: Any  # a of the learning rate of the chosen leaves; 1 for none
    beta: Any  # factor of the β of the chosen leaves


def arm_of(name: str, rate: float, weight_decay: float) -> Arm:
    """The numbers of an arm, by its name."""
    a = 1 - rate * weight_decay
    return {
        NONE: Arm(0.0, 1.0, 1.0),
        DECAY: Arm(weight_decay, 1.0, 1.0),
        MATCHED: Arm(0.0, a, 1.0),
        EXACT: Arm(0.0, a, a),
    }[name]


def optimizer_of(
    base: str, rate: Any, arm: Arm, momentum: Any
) -> optax.GradientTransformation:
    """The optimizer of the leaves that an arm treats."""
    if base == ADAM:
        b1, b2 = B1 * arm.beta, B2 * arm.beta**2

        def schedule(t: Any) -> Any:
            steps = t + 1
            first, second = (
                (1 - new**steps) * (1 - old) / ((1 - new) * (1 - old**steps))
                for new, old in ((b1, B1), (b2, B2))
            )
            return -rate * arm.growth**-steps * first / jnp.sqrt(second)

        direction = optax.scale_by_adam(b1, b2, eps=EPS)
    else:
        direction = optax.trace(momentum * arm.beta)

        def schedule(t: Any) -> Any:
            return -rate * arm.growth ** -(2 * t + 1)

    return optax.chain(
        direction,
        dx.decoupled_decay(arm.weight_decay),
        optax.scale_by_schedule(schedule),
    )


def optimizer_of_leaves(
    base: str, rate: float, arms: Arm, momentum: Any, params: Any
) -> optax.GradientTransformation:
    """The optimizer with its own arm for each leaf; `arms` holds arrays [leaves]."""
    leaves, treedef = jax.tree.flatten(params)
    numbers = range(len(leaves))
    optimizers: dict[Any, optax.GradientTransformation] = {
        i: optimizer_of(base, rate, Arm(*(x[i] for x in arms)), momentum)
        for i in numbers
    }
    return optax.partition(optimizers, treedef.unflatten(numbers))


class Training(NamedTuple):
    """What all runs of a program share."""

    cache: CompilationCache
    network: Network
    base: str
    rate: float
    weight_decay: float


def train_runs(
    training: Training,
    runs: Sequence[Run],
    invariant: np.ndarray,
    seeds: np.ndarray,
    epochs: int,
    dtype: str = "float32",
) -> np.ndarray:
    """Train all runs on all seeds; returns the losses, [runs, seeds, steps].

    `invariant` says which leaves are, bool[leaves].
    """
    rate, decay = training.rate, training.weight_decay
    none, arms = arm_of(NONE, rate, decay), []
    for run in runs:
        chosen = invariant if run.leaves == INVARIANT else ~invariant
        pairs = zip(arm_of(run.arm, rate, decay), none, strict=True)
        arms.append([np.where(chosen, treated, plain) for treated, plain in pairs])
    # Arrays [runs * seeds, leaves].
    numbers = (np.repeat(x, len(seeds), 0) for x in np.array(arms).swapaxes(0, 1))
    momentum = np.repeat([run.momentum for run in runs], len(seeds))
    cells = {"seed": np.tile(seeds, len(runs)), "momentum": momentum}
    losses = _train(training, cells, Arm(*numbers), epochs, dtype)
    return losses.reshape(len(runs), len(seeds), -1)


def _train(
    training: Training,
    cells: Mapping[str, np.ndarray],
    arms: Arm,
    epochs: int,
    dtype: str,
) -> np.ndarray:
    """Train the cells, each with its numbers; returns the losses, [cells, steps]."""
    cache, network, base, rate, _ = training
    gradient = jax.value_and_grad(functools.partial(loss_of, network))

    def optimizer(cell: Mapping[str, Any], arms: Arm, params: Any) -> Any:
        return optimizer_of_leaves(base, rate, arms, cell["momentum"], params)

    def start(cell: Mapping[str, Any], arms: Arm) -> Any:
        params = network.init(cell["seed"])
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        return params, optimizer(cell, arms, params).init(params)

    def epoch(cell: Any, arms: Arm, carry: Any, number: Any, data: Any) -> Any:
        def step(carry: Any, examples: Any) -> Any:
            params, state = carry
            loss, grads = gradient(params, *examples)
            updates, state = optimizer(cell, arms, params).update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, carry, network.examples(cell["seed"], number, data))

    sharded, replicated = devices.spread_over_devices(len(cells["seed"]))
    shards = {"in_shardings": sharded, "out_shardings": sharded}
    of_epoch = shards | {"in_shardings": (sharded,) * 3 + (replicated,) * 2}
    losses = []
    with jax.enable_x64(dtype == "float64"):
        begin = compiled_once(cache, jax.vmap(start), **shards)
        over_cells = jax.vmap(epoch, (0, 0, 0, None, None))
        train = compiled_once(cache, over_cells, **of_epoch)
        data, carry = jax.device_put(network.data, replicated), begin(cells, arms)
        for number in range(epochs):
            carry, loss = train(cells, arms, carry, np.int32(number), data)
            losses.append(np.asarray(loss))
    return np.concatenate(losses, 1)


def names_of(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """The runs as arrays of text, for a file."""
    columns = zip(*runs, strict=True)
    return {n: np.array(x) for n, x in zip(Run._fields, columns, strict=True)}


def summary(runs: Sequence[Run], losses: np.ndarray) -> dict[str, np.ndarray]:
    """Reduce the losses [runs, seeds, steps] to arrays [runs, seeds].

    Returns:
        `final`, the mean loss of the last quarter of the steps. `gap`, the mean of
        |loss - loss of decay| over all steps, for decay on the same leaves. `effect`,
        this gap of the run without decay.
    """
    by_run = dict(zip(runs, losses.astype(np.float64), strict=True))
    decay = np.stack([by_run[run._replace(arm=DECAY)] for run in runs])
    none = np.stack([by_run[Run(run.base, INVARIANT, NONE)] for run in runs])
    last = -max(1, losses.shape[-1] // 4)
    return {
        "final": losses[..., last:].mean(-1, np.float64),
        "gap": np.abs(losses - decay).mean(-1),
        "effect": np.abs(none - decay).mean(-1),
    }
