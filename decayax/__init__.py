"""decayax: weight decay for training with Optax, one transform per meaning."""

from decayax import _budget, masks, rates
from decayax._audit import Audit, audit, Finding, LeafAudit
from decayax._budget import *  # noqa: F403 (see its __all__)
from decayax._core.face import name_public_modules as _name_public_modules
from decayax._optimizers.adam import adam_l2, adamw
from decayax._optimizers.adopt import adopt_state
from decayax._optimizers.rmsprop import rmsprop_l2, rmspropw
from decayax._optimizers.sgd import sgd_l2, sgdw
from decayax._optimizers.stages import LearningRateState
from decayax._rounding.compensated import (
    compensate_rounding,
    CompensationState,
    with_compensation,
)
from decayax._rounding.state_dtype import StateDtypeState, with_state_dtype
from decayax._rounding.stochastic import (
    round_stochastically,
    StochasticRoundingState,
    with_stochastic_rounding,
)
from decayax._symmetries.balance import balance
from decayax._symmetries.models import equinox_function, linen_function, nnx_function
from decayax._symmetries.report import LeafSymmetry, ScaleSymmetries
from decayax._symmetries.symmetries import scale_symmetries
from decayax._telemetry.stats import decay_stats, measure_decay
from decayax._telemetry.table import decay_table, DecayTable
from decayax._telemetry.track import track_decay, TrackDecayState
from decayax._transforms import catalogue as _catalogue
from decayax._transforms.apply import apply_updates
from decayax._transforms.catalogue import *  # noqa: F403 (see its __all__)
from decayax._transforms.places import (
    add_l2_to_grad,
    decoupled_decay,
    independent_decay,
    with_decay,
)
from decayax._transforms.rms import scale_by_rms, ScaleByRmsState
from decayax._transforms.stddev import scale_by_stddev, ScaleByStddevState


__version__ = "0.2.0"  # pyproject.toml reads it from here

__all__ = [
    "add_l2_to_grad",  # decay in one of three places, around an optimizer
    "decoupled_decay",
    "independent_decay",
    "with_decay",
    "scale_by_rms",  # preconditioners
    "ScaleByRmsState",
    "scale_by_stddev",
    "ScaleByStddevState",
    "sgd_l2",  # pairs: with L2, with decoupled decay
    "sgdw",
    "rmsprop_l2",
    "rmspropw",
    "adam_l2",
    "adamw",
    "LearningRateState",
    "masks",  # what decays, and how strongly
    "rates",
    "audit",  # measured decay of any optimizer: before or while training
    "Audit",
    "LeafAudit",
    "Finding",
    "track_decay",
    "measure_decay",
    "decay_stats",
    "decay_table",
    "DecayTable",
    "TrackDecayState",
    "scale_symmetries",  # weights whose size the model does not see
    "ScaleSymmetries",
    "LeafSymmetry",
    "balance",
    "nnx_function",
    "linen_function",
    "equinox_function",
    "apply_updates",  # 16-bit weights and moments; running jobs
    "adopt_state",
    "with_stochastic_rounding",
    "with_compensation",
    "with_state_dtype",
    "round_stochastically",
    "compensate_rounding",
    "StochasticRoundingState",
    "CompensationState",
    "StateDtypeState",
]
__all__ += _catalogue.__all__
__all__ += _budget.__all__


def __dir__() -> list[str]:
    return sorted(__all__)


_name_public_modules(masks.__name__, rates.__name__, __name__)
