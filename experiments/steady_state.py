r"""Norms of a scale-invariant weight over a schedule, from γ and λ only.

A step is θ ← aθ - γu with a = 1 - γλ, and u = βu + (a multiple of) the gradient g. The
loss does not depend on the size of θ, so ⟨θ, g⟩ = 0 and ‖g‖ = K/‖θ‖. Then

    ‖θ‖² ← a²‖θ‖² - 2aγ⟨θ, u⟩ + γ²‖u‖²,     ⟨θ, u⟩ ← β(a⟨θ, u⟩ - γ‖u‖²)

where γ, a and u on the right are those of the step before. If γ and λ are constant, the
norms settle, and

    ‖u‖/‖θ‖ = √((1 - a²)/γ² · (1 - aβ)/(1 + aβ)) ≈ √(2λ/γ · (1 - β)/(1 + β))

for any gradients. For β = 0 this is the √(2λ/γ) of Defazio. With momentum, ‖g‖/‖θ‖ also
depends on the correlation of successive gradients. If they are uncorrelated, SGD has
‖u‖² = ‖g‖²/(1 - β²), so ‖g‖/‖θ‖ ≈ (1 - β)√(2λ/γ).

For Adam, u = m/D with D = √v + ε. The gradient is orthogonal to θ, but g/D is not. Both
equations hold in the metric D if D changes slowly: ‖x‖² is Σ D x², ⟨x, y⟩ is Σ D x y.
Adam's ‖u‖ does not depend on the size of the gradients. So ‖g‖/‖θ‖ = K/‖θ‖² is not
determined, but its relative change is.

References:
    Defazio, *Why Gradients Rapidly Increase Near the End of Training*, 2025,
    arXiv:2506.02285: the ratio for SGD, its rise, and the corrected decay.
    Kosson, Messmer and Jaggi, *Rotational Equilibrium*, ICML 2024, arXiv:2305.17212:
    the factor of momentum.
"""

from typing import NamedTuple

import numpy as np


def steady_ratio(rate: np.ndarray, decay: np.ndarray, beta: float = 0.0) -> np.ndarray:
    """‖u‖/‖θ‖ if the learning rate and λ of a step had always been the same."""
    a = 1 - rate * decay
    return np.sqrt((1 - a**2) / rate**2 * (1 - a * beta) / (1 + a * beta))


class Course(NamedTuple):
    """Squares at every step, up to a common factor K: float64[steps] each."""

    weight: np.ndarray  # ‖θ‖²
    gradient: np.ndarray  # ‖g‖²; under Adam up to another factor
    direction: np.ndarray  # ‖u‖²

    def ratio(self, name: str, segments: int = 1) -> np.ndarray:
        """The root of a square over ‖θ‖², both summed over each part of the run."""
        parts = getattr(self, name).reshape(segments, -1).sum(1)
        return np.sqrt(parts / self.weight.reshape(segments, -1).sum(1))


def course(
    rates: np.ndarray, decays: np.ndarray, beta: float, adaptive: bool
) -> Course:
    """Follow the norms over a schedule. The run begins in the steady state.

    Args:
        rates: learning rate of each step.
        decays: λ of each step.
        beta: momentum.
        adaptive: if true, ‖u‖ is constant, as under Adam. If false, the gradients are
            uncorrelated and u is their sum, as under SGD.
    """
    rate, a = rates[0], 1 - rates[0] * decays[0]
    summed = 1.0 if adaptive else 1 / (1 - beta**2)  # ‖u‖²/‖g‖²
    ratio = float(steady_ratio(rates[0], decays[0], beta))
    weight = 1 / ratio**2 if adaptive else np.sqrt(summed) / ratio
    direction = 1.0 if adaptive else summed / weight
    product = -beta * rate * direction / (1 - a * beta)  # ⟨θ, u⟩
    squares = []
    for rate, decay in zip(rates, decays, strict=True):
        squares.append((weight, 1 / weight, direction))
        a = 1 - rate * decay
        weight = a**2 * weight - 2 * a * rate * product + rate**2 * direction
        product = beta * (a * product - rate * direction)
        if not adaptive:
            direction = beta**2 * direction + 1 / weight
    return Course(*np.array(squares).T)
