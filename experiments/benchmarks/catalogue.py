"""What does a step with a method of the catalogue cost, relative to the bare chain?

Question    How many bytes does a compiled step access, how long does it take, and how
            many bytes of state does a weight need, relative to scale_by_adam and the
            learning rate alone?
Command     python -m experiments.benchmarks.catalogue
Cost        about two minutes on 2 CPU cores
Expected    Decays without a gate or a memory cost what decoupled_decay costs. A gate
            costs 1.2 times the bare chain, because XLA on CPU stores Adam's quotient,
            an anchor 1.1, an average 1.4, a norm 1.1 to 3 times. A singular value
            decomposition takes as long as hundreds or thousands of steps.

Bytes are those that XLA counts for one step on one matrix, with donated buffers. Times
are ratios of medians: the cases take turns in one process. The set is four layers of
two matrices, a bias and a gain. Times are not printed, because they depend on the
machine.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import decayax as dx


SIZE, ROUNDS = 1024, 9
GAMMA, STRENGTH = 1e-3, 0.1
LAYER = {"in": (256, 512), "out": (512, 256), "bias": (512,), "gain": (256,)}
Method = Callable[..., optax.GradientTransformation]
Optimizer = optax.GradientTransformation


class Case(NamedTuple):
    """A method in a chain with Adam, and whether it has a singular value decomposition.

    The optimizer is a function of the mask.
    """

    name: str
    optimizer: Callable[[Any], Optimizer]
    svd: bool = False


adam = optax.scale_by_adam
learning_rate = functools.partial(optax.scale_by_learning_rate, GAMMA)


def before(method: Method, *arguments: Any, **options: Any) -> Callable[..., Optimizer]:
    """Adam, the method, the learning rate."""
    return lambda mask: optax.chain(
        adam(), method(*arguments, mask=mask, **options), learning_rate()
    )


def after(method: Method, *arguments: Any, **options: Any) -> Callable[..., Optimizer]:
    """Adam, the learning rate, the method."""
    return lambda mask: optax.chain(
        adam(), learning_rate(), method(*arguments, mask=mask, **options)
    )


def around(method: Method, *arguments: Any, **options: Any) -> Callable[..., Optimizer]:
    """The method around Adam, the learning rate."""
    return lambda mask: optax.chain(
        method(adam(), *arguments, mask=mask, **options), learning_rate()
    )


def bare(mask: Any) -> Optimizer:
    """Adam without decay."""
    return optax.chain(adam(), learning_rate())


def rotated(mask: Any) -> Optimizer:
    """Adam with a rotation in place of the learning rate."""
    return optax.chain(adam(), dx.rotational(0.01, learning_rate=GAMMA, mask=mask))


def selected(mask: Any) -> Optimizer:
    """A projection around all of Adam."""
    return dx.selective_projection(optax.adam(GAMMA), mask=mask)


def first(mask: Any) -> Optimizer:
    """A projection of the gradient in front of Adam."""
    return optax.chain(dx.project_radial_gradient(mask=mask), bare(mask))


def huber(x: jax.Array) -> jax.Array:
    """A penalty."""
    return optax.losses.huber_loss(x, jnp.zeros_like(x)).sum()


def corrected(weight_decay: float, mask: Any) -> Optimizer:
    """Decay with a learning rate that is constant."""
    return dx.corrected_decay(
        weight_decay, learning_rate=GAMMA, peak_learning_rate=GAMMA, mask=mask
    )


CASES = (
    Case("bare", bare),
    Case("decoupled_decay", before(dx.decoupled_decay, STRENGTH)),
    Case("cautious_decay", before(dx.cautious_decay, STRENGTH)),
    Case("corrected_decay", before(corrected, STRENGTH)),
    Case("touched_decay", around(dx.touched_decay, STRENGTH)),
    Case("decay_to", before(dx.decay_to, STRENGTH, 0.0)),
    Case("decay_to_init", before(dx.decay_to_init, STRENGTH)),
    Case("decay_to_average", before(dx.decay_to_average, STRENGTH)),
    Case("norm_control", before(dx.norm_control, STRENGTH, target_ratio=1.0)),
    Case(
        "target_norm_decay",
        before(dx.target_norm_decay, "initial", learning_rate=GAMMA),
    ),
    Case("constrain_norm", after(dx.constrain_norm, initial_factor=1.0)),
    Case("fixed_norm", after(dx.fixed_norm)),
    Case("fixed_norm, initial", after(dx.fixed_norm, radius="initial")),
    Case("fixed_norm, spectral", after(dx.fixed_norm, spectral=True), svd=True),
    Case("spectral_decay", before(dx.spectral_decay, STRENGTH), svd=True),
    Case("rotational", rotated),
    Case("proximal_decay", after(dx.proximal_decay, STRENGTH, learning_rate=GAMMA)),
    Case("soft_threshold", after(dx.soft_threshold, STRENGTH, learning_rate=GAMMA)),
    Case("decoupled_penalty", before(dx.decoupled_penalty, STRENGTH, huber)),
    Case("radial_brake", before(dx.radial_brake)),
    Case("pin_radius", after(dx.pin_radius)),
    Case("update_to_weight_floor", before(dx.update_to_weight_floor, STRENGTH)),
    Case("project_radial_gradient", first),
    Case("project_radial_update", around(dx.project_radial_update, STRENGTH)),
    Case("selective_projection", selected),
)


def matrices(params: Any) -> Any:
    """The mask of the matrices."""
    return jax.tree.map(lambda x: len(x.shape) > 1, params)


def shapes(layers: int) -> Any:
    """One large matrix, or a set of layers."""
    if not layers:
        return {"matrix": jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)}
    return [
        {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in LAYER.items()}
        for _ in range(layers)
    ]


def compiled_step(case: Case, params: Any) -> Any:
    """The program of a step with donated buffers; only matrices decay."""
    optimizer = case.optimizer(matrices)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()


def accessed(program: Any) -> float:
    """The bytes that XLA counts."""
    analysis = program.cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["bytes accessed"]


def state_per_weight(case: Case) -> float:
    """Bytes of the state for each weight of the large matrix."""
    state = jax.eval_shape(case.optimizer(matrices).init, shapes(0))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / SIZE**2


def stepper(case: Case, program: Any, params: Any) -> Callable[[], float]:
    """A function that takes a step and returns its seconds."""

    def draw(seed: int) -> Any:
        keys = iter(jax.random.split(jax.random.key(seed), 99))
        return jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), params)

    weights, grads = draw(0), draw(1)
    carry = weights, case.optimizer(matrices).init(weights)

    def timed() -> float:
        nonlocal carry
        started = time.perf_counter()
        carry = jax.block_until_ready(program(*carry, grads))
        return time.perf_counter() - started

    return timed


def time_ratios(programs: list[Any], params: Any, rounds: int) -> list[float]:
    """The median times, relative to the first case."""
    steppers = [
        stepper(case, program, params)
        for case, program in zip(CASES, programs, strict=True)
    ]
    times: list[list[float]] = [[] for _ in steppers]
    for number in range(rounds):
        for case, mine, timed in zip(CASES, times, steppers, strict=True):
            if number < 2 or not case.svd:  # seconds, without much noise
                mine.append(timed())
    # The first step can include page faults.
    medians = [statistics.median(mine[1:]) for mine in times]
    return [mine / medians[0] for mine in medians]


def main(rounds: int = ROUNDS) -> None:
    """Print the table."""
    columns = []
    for params in (shapes(0), shapes(4)):
        programs = [compiled_step(case, params) for case in CASES]
        if not columns:
            columns.append([accessed(program) for program in programs])
        columns.append(time_ratios(programs, params, rounds))
    print(f"{jax.devices()[0].device_kind}, medians of {rounds} steps")
    print(f"| method | bytes accessed | time, {SIZE}×{SIZE} | time, 4 layers | state |")
    print("|---|---|---|---|---|")
    base = state_per_weight(CASES[0])
    for case, total, matrix, layers in zip(CASES, *columns, strict=True):
        added = state_per_weight(case) - base
        digits = 0 if case.svd else 2
        count = "" if case.svd else f"{total / columns[0][0]:.2f}"
        ratios = f"{matrix:.{digits}f} | {layers:.{digits}f}"
        print(f"| `{case.name}` | {count} | {ratios} | {added:.2f} |")


if __name__ == "__main__":
    main()
