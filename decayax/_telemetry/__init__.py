"""What decay is applied while training, measured inside the optimizer's state."""

from decayax._telemetry.telemetry import (
    decay_stats as decay_stats,
    track_decay as track_decay,
    TrackDecayState as TrackDecayState,
)
