"""Wrong calls. Pyright and mypy find an error in each line marked so, and no other."""

from typing import Any

import jax
import optax

import decayax as dx


def wrong(params: dict[str, jax.Array], updates: Any) -> None:
    dx.adamw("1e-3")  # error
    dx.adamw(1e-3, weight_decay="0.1")  # error
    dx.adamw(1e-3, weight_decay=1j)  # error
    dx.adamw(1e-3, decay=0.1)  # error
    dx.adamw()  # error
    dx.with_decay(optax.lion(1e-3), 0.1)  # error
    dx.decoupled_decay(None)  # error
    dx.masks.by_role(kernel="yes")  # error
    dx.masks.describe(params)  # error
    dx.rates.retained_fraction("1e-5", steps=10)  # error
    dx.rates.half_life_steps_from_rate(rate=0.1)  # error
    dx.audit(dx.adamw(1e-3), params, steps="many")  # error
    dx.audit(dx.adamw(1e-3), params).rate  # error # noqa: B018
    dx.audit(dx.adamw(1e-3), params).check(allow=3)  # error
    dx.apply_updates(params, updates).kernel  # error # noqa: B018
    dx.kept_share(0.1)  # error
