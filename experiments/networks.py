"""A setup as plain functions of the parameters, and the kinds of its leaves.

The logits are those of training: BatchNorm uses the statistics of the batch.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx
from experiments.engine.compilation_cache import CompilationCache
from experiments.engine.one_run import draw_epochs
from experiments.engine.program import FAST_COMPILE
from experiments.models.model import with_state
from experiments.seeds import key_for, Purpose
from experiments.tasks import Classification, Language


Setup = Classification | Language
INVARIANT, JOINT, SEEN, DEAD = "invariant", "joint", "seen", "dead"
KINDS = (INVARIANT, JOINT, SEEN, DEAD)


class Network(NamedTuple):
    """A setup with its data, as functions."""

    init: Callable[[Any], Any]  # seed -> params
    # seed, epoch, data -> the inputs and labels of each step of an epoch
    examples: Callable[[Any, Any, Any], tuple[jax.Array, jax.Array]]
    logits: Callable[[Any, jax.Array], jax.Array]  # params, inputs
    data: Any  # NumPy arrays


@functools.cache
def network_of(setup: Setup) -> Network:
    """Return the functions of a setup, and its data."""
    task, model = setup.task(), with_state(setup.model())

    def examples(seed: Any, epoch: Any, data: Any) -> tuple[jax.Array, jax.Array]:
        batches = draw_epochs(task, 1, seed, epoch, data)
        if isinstance(setup, Language):  # windows of symbols
            return batches[..., :-1], batches[..., 1:]
        split = task.run_data({"seed": seed}, data).split
        return data.pool_x[split.train_rows[batches]], split.train_y[batches]

    def logits(params: Any, x: jax.Array) -> jax.Array:
        key = key_for(0, Purpose.INIT)  # of the state and of dropout; not used
        # The running statistics of BatchNorm, which training does not read.
        dtype = jax.tree.leaves(params)[0].dtype
        state = jax.tree.map(lambda leaf: leaf.astype(dtype), model.state(key))
        return model.train(params, state, x, key)[0]

    return Network(
        init=lambda seed: task.init({"seed": seed}),
        examples=examples,
        logits=logits,
        data=setup.load(),
    )


def compiled_once(
    cache: CompilationCache, function: Callable[..., Any], **options: Any
) -> Callable[..., Any]:
    """Jit a function that is called with one set of shapes; records the seconds."""
    jitted = jax.jit(function, compiler_options=FAST_COMPILE, **options)
    programs = []

    def call(*arguments: Any) -> Any:
        if not programs:
            started = time.perf_counter()
            programs.append(jitted.lower(*arguments).compile())
            cache.compile_seconds.append(time.perf_counter() - started)
        return programs[0](*arguments)

    return call


def loss_of(network: Network, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean cross-entropy of a batch, in the dtype of the parameters."""
    logits = network.logits(params, x)
    if logits.ndim > y.ndim + 1:  # a sequence with one label
        logits = logits[:, -1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


class Kinds(NamedTuple):
    """What `dx.scale_symmetries` says about the leaves, in the order of the leaves."""

    paths: tuple[str, ...]
    kinds: tuple[str, ...]
    axes: tuple[str, ...]  # along which every slice is invariant, such as "3"
    sizes: tuple[int, ...]  # numbers of weights
    groups: tuple[Mapping[str, float], ...]  # path -> exponent

    def is_a(self, *kinds: str) -> np.ndarray:
        """Which leaves are of these kinds, bool[leaves]."""
        return np.array([kind in kinds for kind in self.kinds])

    def shared(self) -> dict[str, str]:
        """Path -> name of the group, for groups whose exponents are all equal."""
        names = {}
        for number, group in enumerate(self.groups, 1):
            if len(set(group.values())) == 1:
                names |= dict.fromkeys(group, f"group {number}")
        return names

    def arrays(self) -> dict[str, np.ndarray]:
        """The kinds as arrays, for a file; groups as exponents [groups, leaves]."""
        groups = [
            [group.get(path, 0.0) for path in self.paths] for group in self.groups
        ]
        return {
            "paths": np.array(self.paths),
            "kinds": np.array(self.kinds),
            "axes": np.array(self.axes),
            "sizes": np.array(self.sizes),
            "groups": np.array(groups).reshape(-1, len(self.paths)),
        }


@functools.cache
def symmetries_of(setup: Setup, seed: int) -> dx.ScaleSymmetries:
    """The symmetries of the logits, at the initial weights and the first batch."""
    network = network_of(setup)
    # An optimizer may ask for them while it is traced.
    with jax.ensure_compile_time_eval():
        params = jax.jit(network.init)(seed)
        x = jax.jit(network.examples)(seed, 0, network.data)[0][0]
        return dx.scale_symmetries(lambda params: network.logits(params, x), params)


@functools.cache
def kinds_of(setup: Setup, seed: int) -> Kinds:
    """The kinds of the leaves, at the initial weights and the first batch of a seed."""
    found = symmetries_of(setup, seed)
    leaves = found.leaves
    if any(leaf.slice is not None for leaf in leaves):
        raise ValueError("kinds_of: a parameter is a stack, which has no single kind")
    return Kinds(
        paths=tuple(leaf.path for leaf in leaves),
        kinds=tuple(leaf.kind for leaf in leaves),
        axes=tuple(", ".join(map(str, leaf.axes)) for leaf in leaves),
        sizes=tuple(int(np.prod(leaf.shape)) for leaf in leaves),
        groups=tuple(found.groups),
    )


def norms_of(params: Any, batch_axes: int = 0) -> jax.Array:
    """The norm of each leaf, float[..., leaves]; the first axes are those of runs."""
    leaves = jax.tree.leaves(params)
    squares = [jnp.sum(x**2, tuple(range(batch_axes, x.ndim))) for x in leaves]
    return jnp.sqrt(jnp.stack(squares, -1))
