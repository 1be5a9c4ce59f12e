r"""Conversions between the conventions of ``weight_decay``, and schedules of it.

The *rate* is the fraction of a weight that one step removes, θ ← (1 − rate_t) θ. What
libraries call ``weight_decay``, λ, is related to it in one of three ways:

    lr-scaled    rate_t = γ_t λ        torch AdamW, optax, Keras, dx.decoupled_decay
    independent  rate_t = (γ_t/α) λ    AdamW paper, big_vision
    per step     rate_t = λ            TensorFlow Addons, dx.independent_decay

γ_t is the learning rate and α its peak. ``proportional_schedule`` is the independent
rate. Python numbers and NumPy arrays are calculated in float64; JAX arrays and tracers
give JAX arrays. If an argument is a schedule (step -> value), the result is a schedule
too. Only ``retained_fraction`` reduces a schedule to one number.

    >>> from decayax import rates
    >>> rate = rates.rate_from_lr_scaled(0.01, learning_rate=1e-3)
    >>> half_life = rates.half_life_steps_from_rate(rate)
    >>> print(f"{rate:.0e} per step: half is left after {half_life:.1f} steps")
    1e-05 per step: half is left after 69314.4 steps

What stays the same if the learning rate changes depends on the network. "Only γλ
matters" is a statement about weights whose size the model does not see, after some
timescales, and about AdamW. Of weights that the model sees, λ itself may stay the same.
``dx.transfer`` shows what each rule keeps.

Four functions make schedules of recent recipes: ``lr_squared_schedule`` λγ_t²,
``log_time_schedule`` λ/(1 + t/t₀), ``cosine_ramp_schedule`` from one value to another,
``inverse_step_schedule`` λ/(t + 2). ``weight_decay=`` also takes any Optax schedule:
``optax.constant_schedule``, ``optax.linear_schedule`` (for a warm-up, or to 0),
``optax.cosine_decay_schedule``.
``optax.join_schedules`` gives the restarts of AdamWR (https://arxiv.org/abs/1711.05101,
Appendix B.2), here with periods of 10, 20 and 40 steps:

    >>> import optax
    >>> cosines = [optax.cosine_decay_schedule(0.1, 10 * 2**i) for i in range(3)]
    >>> restarts = optax.join_schedules(cosines, boundaries=[10, 10 + 20])
    >>> [round(float(restarts(step)), 4) for step in (0, 5, 9, 10, 29, 30)]
    [0.1, 0.05, 0.0024, 0.1, 0.0006, 0.1]
"""

from decayax.rates._conventions import (
    independent_from_lr_scaled,
    lr_scaled_from_independent,
    lr_scaled_from_rate,
    proportional_schedule,
    rate_from_lr_scaled,
)
from decayax.rates._scales import (
    normalised_from_weight_decay,
    prior_width_from_weight_decay,
    weight_decay_from_normalised,
    weight_decay_from_prior_width,
)
from decayax.rates._schedules import (
    cosine_ramp_schedule,
    inverse_step_schedule,
    log_time_schedule,
    lr_squared_schedule,
)
from decayax.rates._timescales import (
    half_life_steps_from_rate,
    rate_from_half_life_steps,
    rate_from_retained_fraction,
    rate_from_timescale_steps,
    retained_fraction,
    timescale_steps_from_rate,
)


__all__ = [
    "independent_from_lr_scaled",
    "lr_scaled_from_independent",
    "lr_scaled_from_rate",
    "proportional_schedule",
    "rate_from_lr_scaled",
    "normalised_from_weight_decay",
    "prior_width_from_weight_decay",
    "weight_decay_from_normalised",
    "weight_decay_from_prior_width",
    "cosine_ramp_schedule",
    "inverse_step_schedule",
    "log_time_schedule",
    "lr_squared_schedule",
    "half_life_steps_from_rate",
    "rate_from_half_life_steps",
    "rate_from_retained_fraction",
    "rate_from_timescale_steps",
    "retained_fraction",
    "timescale_steps_from_rate",
]


def __dir__() -> list[str]:
    return sorted(__all__)
