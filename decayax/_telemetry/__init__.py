"""What decay is applied while training, measured inside the optimizer's state.

`track` wraps an optimizer, `measure` computes the sums of one step, and `stats` turns
the sums into statistics for a logger.
"""

from decayax._telemetry.stats import decay_stats as decay_stats
from decayax._telemetry.track import (
    track_decay as track_decay,
    TrackDecayState as TrackDecayState,
)
