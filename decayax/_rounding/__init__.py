"""Steps that survive 16-bit weights: rounded at random, or with the rest kept.

`grid` is the arithmetic, `noise` its randomness; `stochastic` and `compensated` are
the two cures, `state_dtype` keeps moments in 16 bits.
"""

from decayax._rounding.compensated import (
    compensate_rounding as compensate_rounding,
    CompensationState as CompensationState,
    with_compensation as with_compensation,
)
from decayax._rounding.state_dtype import (
    StateDtypeState as StateDtypeState,
    with_state_dtype as with_state_dtype,
)
from decayax._rounding.stochastic import (
    round_stochastically as round_stochastically,
    StochasticRoundingState as StochasticRoundingState,
    with_stochastic_rounding as with_stochastic_rounding,
)
