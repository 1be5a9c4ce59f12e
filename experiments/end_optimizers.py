"""Two decays of scale-invariant weights, and the ratios that a run measures.

    lr-scaled   θ ← θ - γ_t (u_t + λ θ)                 every decayed weight
    corrected   θ ← θ - γ_t (u_t + λ (γ_t/γ_peak) θ)    scale-invariant weights

The direction u_t is the gradient, its momentum or that of Adam. `dx.scale_symmetries`
finds the invariant weights in the model. The other decayed weights, such as the head,
have lr-scaled decay in both arms.

They are not in the file of a study, so an edit of a plan does not change the code of
the stored cells.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import decayax as dx
from experiments.arms import rate
from experiments.engine.config import constant, cosine, HParams, Multiplier, Schedule
from experiments.networks import Setup, symmetries_of


Optimizer = optax.GradientTransformation
# b2 = 0.999 would average the squares over the whole run of 1000 steps.
BETA, B2, EPS = 0.9, 0.99, 1e-8
PROBE_SEED = 0  # of the weights and the batch at which symmetries are searched
GRADIENT, DIRECTION, WEIGHTED, NORM = "gradient", "direction", "weighted", "norm"


def linear(progress: jax.Array, hparams: HParams) -> jax.Array:
    """Return 1 - progress: from 1 to 0."""
    return 1 - progress


SCHEDULES: dict[str, Schedule] = {
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
}


# --- Bases ------------------------------------------------------------------------


class Base(NamedTuple):
    """An optimizer without decay and without learning rate."""

    name: str
    beta: float
    precondition: Callable[[], Optimizer]
    # its state, params -> D, the metric in which gradient and weights are orthogonal
    metric: Callable[[Any, Any], Any]
    adaptive: bool = False  # ‖u‖ does not depend on the size of the gradients

    @property
    def ratios(self) -> tuple[str, ...]:
        """The ratios that differ: with D = 1, `weighted` is `direction`."""
        different = (GRADIENT, DIRECTION, WEIGHTED, NORM)
        return different if self.adaptive else (GRADIENT, WEIGHTED, NORM)


def identity_metric(state: Any, params: Any) -> Any:
    """D = 1."""
    return jax.tree.map(jnp.ones_like, params)


def adam_metric(state: Any, params: Any) -> Any:
    """D = √v + ε, with the bias correction of v."""
    corrected = optax.tree.bias_correction(state.nu, B2, state.count)
    return jax.tree.map(lambda v: jnp.sqrt(v) + EPS, corrected)


SGD = Base("SGD", 0.0, optax.identity, identity_metric)
MOMENTUM = Base(
    "momentum", BETA, functools.partial(optax.trace, decay=BETA), identity_metric
)
ADAM = Base(
    "Adam",
    BETA,
    functools.partial(optax.scale_by_adam, b1=BETA, b2=B2, eps=EPS),
    adam_metric,
    adaptive=True,
)


# --- Decays -----------------------------------------------------------------------


def lr_scaled(setup: Setup, hparams: HParams, eta: Multiplier, mask: Any) -> Optimizer:
    """λθ for every decayed weight."""
    return dx.decoupled_decay(hparams["weight_decay"], mask=mask)


def corrected(setup: Setup, hparams: HParams, eta: Multiplier, mask: Any) -> Optimizer:
    """λ (γ_t/γ_peak) θ for the invariant weights, λθ for the others."""
    invariant = dx.masks.scale_invariant(symmetries_of(setup, PROBE_SEED))
    others = dx.masks.invert(invariant)
    return optax.chain(
        dx.corrected_decay(
            hparams["weight_decay"],
            learning_rate=rate(hparams, eta),
            peak_learning_rate=hparams["learning_rate"],
            mask=dx.masks.all_of(mask, invariant),
        ),
        dx.decoupled_decay(hparams["weight_decay"], mask=dx.masks.all_of(mask, others)),
    )


Decay = Callable[[Setup, HParams, Multiplier, Any], Optimizer]


def with_decay(
    base: Base,
    decay: Decay,
    setup: Setup,
    hparams: HParams,
    eta: Multiplier,
    mask: Any,
) -> Optimizer:
    """The direction, the decay, the learning rate."""
    return optax.chain(
        base.precondition(),
        decay(setup, hparams, eta, mask),
        optax.scale_by_learning_rate(rate(hparams, eta)),
    )


# --- Telemetry --------------------------------------------------------------------


class WatchState(NamedTuple):
    """Sums over the steps of a segment, in the tree of the params: float32[5]."""

    step: jax.Array  # int32[]: steps so far
    sums: Any  # ‖θ‖², ‖g‖², ‖u‖², and in the metric D ‖θ‖², ‖u‖²
    inner: Any


def watch(base: Base, every: int) -> Optimizer:
    """The directions of a base, with the squares of norms summed over `every` steps."""
    precondition = base.precondition()

    def init(params: Any) -> WatchState:
        sums = jax.tree.map(lambda _: jnp.zeros(5), params)
        return WatchState(jnp.int32(0), sums, precondition.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        directions, inner = precondition.update(updates, state.inner, params)
        kept = state.step % every != 0

        def add(sums: Any, weight: Any, grad: Any, direction: Any, metric: Any) -> Any:
            squares = weight**2, grad**2, direction**2
            weighted = metric * weight**2, metric * direction**2
            now = jnp.stack([jnp.sum(x) for x in (*squares, *weighted)])
            return jnp.where(kept, sums, 0.0) + now

        metric = base.metric(inner, params)
        sums = jax.tree.map(add, state.sums, params, updates, directions, metric)
        return directions, WatchState(state.step + 1, sums, inner)

    return optax.GradientTransformation(init, update)


def watched(
    base: Base,
    decay: Decay,
    every: int,
    setup: Setup,
    hparams: HParams,
    eta: Multiplier,
    mask: Any,
) -> Optimizer:
    """`with_decay`, whose state measures the last `every` steps."""
    return with_decay(
        base._replace(precondition=functools.partial(watch, base, every)),
        decay,
        setup,
        hparams,
        eta,
        mask,
    )


def ratios(every: int, opt_state: Any, params: Any) -> dict[str, jax.Array]:
    """Measure each matrix over the last `every` steps: PATH/NAME.

    `gradient` is ‖g‖/‖θ‖, `direction` ‖u‖/‖θ‖, `weighted` the same in the metric D,
    each as the root of a ratio of sums. `norm` is the root mean square of ‖θ‖.
    """
    state: WatchState = opt_state[0]
    found = {}

    def add(path: Any, param: jax.Array, sums: jax.Array) -> None:
        if param.ndim < 2:  # biases do not decay
            return
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        name = name.removesuffix("/value")  # of nnx
        weight, gradient, direction, weight_in_d, direction_in_d = sums
        squares = {
            GRADIENT: gradient / weight,
            DIRECTION: direction / weight,
            WEIGHTED: direction_in_d / weight_in_d,
            NORM: weight / every,
        }
        for ratio, square in squares.items():
            found[f"{name}/{ratio}"] = jnp.sqrt(square)

    jax.tree_util.tree_map_with_path(add, params, state.sums)
    return found
