"""The optimizers of the studies on text: arms, roundings, telemetry, selected leaves.

They are not in the file of a study, so an edit of a plan does not change the code of
the stored cells.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import decayax as dx
from experiments import arms
from experiments.arms import Arm
from experiments.engine.config import HParams, Multiplier, OptimizerFactory


B2 = 0.99  # with 0.999 a run of 1000 steps would average over its whole length
NONE, L2, LR_SCALED, INDEPENDENT = "none", "L2", "lr-scaled", "independent"
adamw = functools.partial(dx.adamw, b2=B2)
_with = functools.partial
_scheduled = functools.partial(functools.partial, arms.scheduled)
_adam = functools.partial(optax.scale_by_adam, b2=B2)
_rms = {"decay": B2, "bias_correction": True}  # as Adam without momentum

ARMS = (
    Arm("adam", "Adam", NONE, _scheduled(adamw)),
    Arm("adam_l2", "Adam", L2, _scheduled(_with(dx.adam_l2, b2=B2))),
    Arm("adamw", "Adam", LR_SCALED, _scheduled(adamw)),
    Arm("adam_independent", "Adam", INDEPENDENT, _with(arms.independent, _adam)),
    Arm("rmsprop_l2", "RMSprop", L2, _scheduled(_with(dx.rmsprop_l2, **_rms))),
    Arm("rmspropw", "RMSprop", LR_SCALED, _scheduled(_with(dx.rmspropw, **_rms))),
)


# --- Rounding ---------------------------------------------------------------------


Optimizer = optax.GradientTransformation
Wrap = Callable[[optax.GradientTransformationExtraArgs], Any]


class Rounding(NamedTuple):
    """The dtype of the network, and the wrapper of AdamW."""

    name: str
    dtype: str
    wrap: Wrap | None


def wrapped(
    wrap: Wrap, learning_rate: Any, *, weight_decay: Any, mask: Any
) -> optax.GradientTransformation:
    """AdamW inside a wrapper."""
    return wrap(adamw(learning_rate, weight_decay=weight_decay, mask=mask))


ROUNDINGS = (
    Rounding("float32", "float32", None),
    Rounding("bf16", "bfloat16", None),
    Rounding("stochastic", "bfloat16", dx.with_stochastic_rounding),
    Rounding("compensated", "bfloat16", dx.with_compensation),
)


# --- Telemetry --------------------------------------------------------------------


def tracked(
    make: OptimizerFactory, hparams: HParams, eta: Multiplier, mask: Any
) -> optax.GradientTransformation:
    """An arm whose decay is measured at every step; under `vmap` it is anyway."""
    return dx.track_decay(make(hparams, eta, mask), every=1)


def group_of(path: str) -> str:
    """The group of a parameter in the telemetry."""
    if path.endswith(("bias", "scale")):
        return "biases and norms"
    for part, name in (("embedding", "embeddings"), ("attention", "attention")):
        if part in path:
            return name
    return "head" if path.startswith("head") else "MLP"


def telemetry(opt_state: Any, params: Any) -> dict[str, jax.Array]:
    """Rates, norms and angles of the groups of parameters, for the measures."""
    # No equilibrium: `dx.scale_symmetries` finds no leaf that is invariant alone.
    stats = dx.decay_stats(opt_state, groups=group_of, scale_invariant=())
    kept = ("decay_rate", "weight_norm", "update_to_weight", "angle")
    return {
        name: value for name, value in stats.items() if name.rpartition("/")[2] in kept
    }


# --- Selected leaves ------------------------------------------------------------------


def multipliers(patterns: Sequence[str], hparams: HParams, params: Any) -> optax.Params:
    """The multiplier of λ for each leaf: 1 if the selection contains it, else 0."""
    number = jnp.asarray(hparams["selection"], jnp.int32)

    def of_leaf(path: Any, _: Any) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        name = name.removesuffix("/value")  # of nnx
        chosen = [re.fullmatch(each, name) is not None for each in patterns]
        return jnp.asarray(chosen, jnp.float32)[number]

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def selected(
    patterns: Sequence[str], hparams: HParams, eta: Multiplier, mask: Any
) -> optax.GradientTransformation:
    """AdamW that decays the leaves of a selection; it replaces the task's mask."""
    chosen = functools.partial(multipliers, patterns, hparams)
    return arms.scheduled(adamw, hparams, eta, chosen)
