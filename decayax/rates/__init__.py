r"""How strongly: one decay, one number in every convention, and schedules of it.

What a decay does in one step is its **rate**, the share of a weight that is lost,
θ ← (1 − rate_t) θ. Conventions differ in what they call ``weight_decay``:

    coupled      rate_t = γ_t λ        torch AdamW, optax, Keras, dx.decoupled_decay
    independent  rate_t = (γ_t/α) λ    AdamW paper, big_vision
    per step     rate_t = λ            TensorFlow Addons, dx.independent_decay

with γ_t the learning rate and α its peak. The functions here go from each to the rate
and back, and from the rate to what it means: a timescale, a half-life, the share of a
weight that a run keeps. Names carry the units, and arguments that could be swapped are
keywords. Python numbers and NumPy arrays are calculated in float64, JAX arrays and
tracers stay JAX. Where a schedule (step -> value) goes in, one comes out, but for the
two that ask for a whole run, ``kept_share`` and ``coupled_from_kept_share``.

The schedules at the end are for ``weight_decay=``; any Optax schedule does as well.

    >>> from decayax import rates
    >>> rate = rates.rate_from_coupled(0.01, learning_rate=1e-3)
    >>> half_life = rates.half_life_steps_from_rate(rate)
    >>> print(f"{rate:.0e} per step: half is left after {half_life:.1f} steps")
    1e-05 per step: half is left after 69314.4 steps
"""

from decayax.rates._conventions import (
    coupled_from_independent as coupled_from_independent,
    coupled_from_rate as coupled_from_rate,
    independent_from_coupled as independent_from_coupled,
    independent_from_rate as independent_from_rate,
    rate_from_coupled as rate_from_coupled,
    rate_from_independent as rate_from_independent,
)
from decayax.rates._kept_share import (
    coupled_from_kept_share as coupled_from_kept_share,
    kept_share as kept_share,
    rate_from_kept_share as rate_from_kept_share,
)
from decayax.rates._restarts import (
    cosine_restarts_schedule as cosine_restarts_schedule,
)
from decayax.rates._scales import (
    normalised_from_weight_decay as normalised_from_weight_decay,
    prior_width_from_weight_decay as prior_width_from_weight_decay,
    weight_decay_from_normalised as weight_decay_from_normalised,
    weight_decay_from_prior_width as weight_decay_from_prior_width,
)
from decayax.rates._schedules import (
    constant_schedule as constant_schedule,
    cosine_to_zero_schedule as cosine_to_zero_schedule,
    linear_to_zero_schedule as linear_to_zero_schedule,
    proportional_schedule as proportional_schedule,
    warmup_schedule as warmup_schedule,
)
from decayax.rates._timescales import (
    half_life_steps_from_rate as half_life_steps_from_rate,
    rate_from_half_life_steps as rate_from_half_life_steps,
    rate_from_timescale_epochs as rate_from_timescale_epochs,
    rate_from_timescale_steps as rate_from_timescale_steps,
    timescale_epochs_from_rate as timescale_epochs_from_rate,
    timescale_steps_from_rate as timescale_steps_from_rate,
)
