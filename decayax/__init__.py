"""decayax: shrinking weights while they train, as Optax gradient transformations."""

import importlib.metadata

from decayax import masks as masks, rates as rates
from decayax._audit import audit as audit
from decayax._optimizers.adam import adam_l2 as adam_l2, adamw as adamw
from decayax._optimizers.rmsprop import rmsprop_l2 as rmsprop_l2, rmspropw as rmspropw
from decayax._optimizers.sgd import sgd_l2 as sgd_l2, sgdw as sgdw
from decayax._rounding import (
    compensate_rounding as compensate_rounding,
    CompensationState as CompensationState,
    round_stochastically as round_stochastically,
    StateDtypeState as StateDtypeState,
    StochasticRoundingState as StochasticRoundingState,
    with_compensation as with_compensation,
    with_state_dtype as with_state_dtype,
    with_stochastic_rounding as with_stochastic_rounding,
)
from decayax._telemetry import (
    decay_stats as decay_stats,
    track_decay as track_decay,
    TrackDecayState as TrackDecayState,
)
from decayax._transforms.kernel import DecayState as DecayState
from decayax._transforms.penalty import l2_penalty as l2_penalty
from decayax._transforms.places import (
    add_l2_to_grad as add_l2_to_grad,
    decoupled_decay as decoupled_decay,
    independent_decay as independent_decay,
    with_decay as with_decay,
)
from decayax._transforms.rms import (
    scale_by_rms as scale_by_rms,
    ScaleByRmsState as ScaleByRmsState,
)


__version__ = importlib.metadata.version("decayax")
