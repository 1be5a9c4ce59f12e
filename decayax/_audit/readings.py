"""What one leaf does under one kind of gradients and weights."""

from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from decayax._audit.estimates import (
    EPS,
    Estimate,
    estimate_of,
    is_finite,
    ONE_SIDED,
    rates_of,
    Subject,
    value_of,
)
from decayax._audit.trace import Trace


MAX_DRIFT = 0.1  # up to which the weights have their initial size
# By this fraction at least, a nonlinear pull shrinks the weights at another rate than
# the derivative says.
MIN_CURVATURE = 0.1


class Setting(NamedTuple):
    """The kind of gradients and weights in a run."""

    seed: int
    gradient_scale: float  # standard deviation of the gradients
    weight_scale: float  # times the leaf's own size


class Reading(NamedTuple):
    """The rate of one leaf under one setting, estimated in three ways."""

    jvp: Estimate | None  # None if there is no derivative, or if it is NaN
    difference: Estimate
    value: Estimate | None  # None if the mean displacement is not a pull to 0
    jvp_trace: Trace | None
    difference_trace: Trace
    subject: Subject
    use_value: bool = False  # whether the best estimate is that of the weights

    @property
    def depends_on_gradient(self) -> bool:
        """Whether the weights differ under g and −g."""
        trace = self.difference_trace
        return any(not np.array_equal(*x) for x in (trace.weights, trace.size))

    @property
    def finite(self) -> bool:
        """Whether the weights are finite after every step."""
        return is_finite(self.difference_trace)

    @property
    def disagrees(self) -> bool:
        """Whether derivative and difference differ by more than a third."""
        if self.jvp is None:
            return False
        a, b = self.jvp.rate, self.difference.rate
        rounding = max(self.difference.threshold, ONE_SIDED * EPS)
        return abs(a - b) > max(abs(a) / 3, abs(b) / 3, rounding)

    @property
    def is_nonlinear(self) -> bool:
        """Whether the weights shrink at another rate than the derivative says.

        A pull of constant size, such as L1, has no derivative at all.
        """
        if self.value is None:
            return False
        derivative = self._replace(use_value=False).best
        gap = abs(derivative.rate - self.value.rate)
        # For single weights, the derivative itself may be what varies.
        errors = self.value.threshold
        if not self.subject.exact:
            errors += derivative.threshold
        return gap > MIN_CURVATURE * abs(self.value.rate) + errors

    @property
    def is_lost(self) -> bool:
        """Whether there is a pull, perhaps, that the weights do not show.

        If they have not moved far and the derivative is 0, too, the rate is 0.
        """
        hidden = self.drift[-1] > MAX_DRIFT or self.best.significant
        return bool(self.use_value and self.value is None and hidden)

    @property
    def is_turned(self) -> bool:
        """Whether the weights have turned too far to show a decay.

        On a sphere, steps across the weights take from the weights what they add to the
        derivative, or the reverse. An exact derivative does not see them.
        """
        if self.subject.exact or self.use_value or not self.is_nonlinear:
            return False
        assert self.value is not None
        gap = abs(self._replace(use_value=False).best.rate - self.value.rate)
        return gap < 2.0 * self.turn

    @property
    def best(self) -> Estimate:
        """The most reliable estimate."""
        if self.use_value and self.value is not None:
            return self.value
        # The derivative has more digits, unless it misses something.
        return self.difference if self.jvp is None or self.disagrees else self.jvp

    @property
    def known_rate(self) -> float:
        """The best rate; 0 if it does not differ from 0."""
        return self.best.rate if self.best.significant else 0.0

    @property
    def turn(self) -> float:
        """The mean square of a step relative to the weights, with its momentum."""
        steps = self.difference_trace.step_size
        return max(float(np.mean(steps**2)), self.drift[-1] ** 2 / steps.shape[1])

    def early_per_weight(self, steps: int) -> Float[np.ndarray, " n"]:
        """The rates of single weights over the first ``steps`` steps."""
        from_jvp = self.jvp is not None and not self.disagrees
        trace = self.jvp_trace if from_jvp else self.difference_trace
        assert trace is not None
        return rates_of(trace.per_weight[:, :steps])

    @property
    def drift(self) -> Float[np.ndarray, " steps"]:
        """How far the weights have moved, ‖θ_t − θ_0‖/‖θ_0‖, mean of g and −g."""
        trace = self.difference_trace
        squares = trace.size**2 - 2.0 * trace.value + 1.0
        return np.sqrt(np.maximum(squares, 0.0)).mean(0)


Readings: TypeAlias = dict[Setting, Reading]  # of one leaf


def varied(readings: Readings, main: Setting, name: str) -> list[tuple[float, Reading]]:
    """The readings that differ from the main one in one field only, by its value."""
    own = getattr(main, name)
    return [
        (getattr(setting, name), reading)
        for setting, reading in sorted(readings.items(), key=lambda item: item[0])
        if setting._replace(**{name: own}) == main
    ]


def with_values(readings: Readings, mirrored: Readings) -> Readings:
    """The readings of a nonlinear pull: of the weights instead of derivatives.

    ``mirrored`` are those that began at −θ₀. A pull to 0 then has the other sign. A
    pull to another value, or noise, cancels.
    """
    pulls = {}
    for setting, reading in readings.items():
        opposite = mirrored[setting._replace(weight_scale=-setting.weight_scale)]
        trace = reading.difference_trace
        odd = trace._replace(
            weights=(trace.weights - opposite.difference_trace.weights) / 2.0
        )
        value = value_of(odd, reading.subject)
        pulls[setting] = reading._replace(value=value, use_value=True)
    return pulls


def reading_of(jvp: Trace | None, difference: Trace, subject: Subject) -> Reading:
    """The reading of a leaf, from its traces under g and −g.

    ``jvp`` is None if the optimizer has no derivative.
    """
    estimate = None if jvp is None else estimate_of(jvp, subject)
    return Reading(
        jvp=None if estimate is None or np.isnan(estimate.rate) else estimate,
        difference=estimate_of(difference, subject._replace(exact=False)),
        value=value_of(difference, subject),
        jvp_trace=jvp,
        difference_trace=difference,
        subject=subject,
    )
