"""What the network and its next step do if some leaves are multiplied by a number.

k steps of decay without gradients multiply a leaf by c = (1 - γλ)^k. A direction a
multiplies leaf l by c^a_l: 1 for each leaf that decays, the exponents for a group.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine.compilation_cache import CompilationCache
from experiments.networks import (
    compiled_once,
    INVARIANT,
    Kinds,
    loss_of,
    Network,
    norms_of,
)


ALL_INVARIANT, ALL = "all invariant leaves", "all leaves"
# γ = 1: only ratios of steps are used.
OPTIMIZERS = {"SGD": optax.sgd(1.0, momentum=0.9), "Adam": optax.adam(1.0, b2=0.99)}


def directions(kinds: Kinds) -> dict[str, np.ndarray]:
    """Name -> exponents [leaves]: each leaf, each group, invariant leaves, all."""
    count = len(kinds.paths)
    found = dict(zip(kinds.paths, np.eye(count), strict=True))
    for number, group in enumerate(kinds.groups, 1):
        found[f"group {number}"] = np.array([group.get(p, 0.0) for p in kinds.paths])
    found[ALL_INVARIANT] = kinds.is_a(INVARIANT).astype(float)
    found[ALL] = np.ones(count)
    return found


def scaled(params: Any, factors: Any) -> Any:
    """The parameters, leaf l times factors[l]."""
    leaves, treedef = jax.tree.flatten(params)
    return treedef.unflatten([x * f for x, f in zip(leaves, factors, strict=True)])


def changes(
    cache: CompilationCache,
    network: Network,
    params: Any,
    batch: Any,
    exponents: np.ndarray,
    factors: np.ndarray,
) -> dict[str, np.ndarray]:
    """The changes for each run, direction and c: float[runs, directions, factors].

    Args:
        cache: records the seconds of compilation.
        network: the network.
        params: with the axis of the runs.
        batch: inputs and labels, likewise.
        exponents: [directions, leaves].
        factors: the numbers c.
    """
    powers = factors[None, :, None] ** exponents[:, None, :]
    powers = jnp.asarray(powers, jnp.float32).reshape(-1, exponents.shape[1])

    @functools.partial(compiled_once, cache)
    @jax.vmap
    def of_run(params: Any, batch: Any) -> Any:
        logits, loss = (
            network.logits(params, batch[0]),
            loss_of(network, params, *batch),
        )

        def of_factors(factors: jax.Array) -> Any:
            after = scaled(params, factors)
            change = jnp.max(jnp.abs(network.logits(after, batch[0]) - logits))
            relative = change / jnp.max(jnp.abs(logits))
            return relative, loss_of(network, after, *batch) - loss

        return jax.lax.map(of_factors, powers)

    shape = -1, len(exponents), len(factors)
    found = [np.asarray(x).reshape(shape) for x in of_run(params, batch)]
    return dict(zip(("logits", "loss"), found, strict=True))


def step_ratios(
    cache: CompilationCache,
    network: Network,
    params: Any,
    batches: Any,
    factor: float,
) -> dict[str, np.ndarray]:
    """How the relative step of a leaf changes if this leaf is multiplied by a number.

    The moments have seen all batches, with constant weights.

    Returns:
        By optimizer: (‖r‖/‖θ‖ after) / (‖r‖/‖θ‖ before), float[runs, leaves].
    """
    count = len(jax.tree.leaves(params))
    factors = np.float32(factor) ** np.eye(count, dtype=np.float32)
    gradient = jax.grad(functools.partial(loss_of, network))

    def relative_steps(params: Any, batches: Any) -> dict[str, jax.Array]:
        def step(states: Any, batch: Any) -> Any:
            grads, found = gradient(params, *batch), {}
            for name, optimizer in OPTIMIZERS.items():
                updates, state = optimizer.update(grads, states[name], params)
                found[name] = state, norms_of(updates)
            return {n: s for n, (s, _) in found.items()}, {
                n: r for n, (_, r) in found.items()
            }

        states = {name: each.init(params) for name, each in OPTIMIZERS.items()}
        _, sizes = jax.lax.scan(step, states, batches)
        return {name: size[-1] / norms_of(params) for name, size in sizes.items()}

    @functools.partial(compiled_once, cache)
    @jax.vmap
    def of_run(params: Any, batches: Any) -> dict[str, jax.Array]:
        before = relative_steps(params, batches)
        after = jax.lax.map(
            lambda f: relative_steps(scaled(params, f), batches), jnp.asarray(factors)
        )
        # Leaf l is scaled in row l.
        return {name: jnp.diagonal(after[name]) / before[name] for name in before}

    return {name: np.asarray(x) for name, x in of_run(params, batches).items()}
