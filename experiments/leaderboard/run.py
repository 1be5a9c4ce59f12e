"""What the chain of an entry gets.

Every cell of the board uses this module. A change here makes all stored cells invalid.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from experiments.engine.config import HParams, Multiplier


B1 = 0.9


class Run(NamedTuple):
    """The numbers of one run. The learning rate of step t is γ_t = α η_t.

    The numbers are tracers: do not branch on them.
    """

    hparams: HParams
    eta: Multiplier  # step -> η in [0, 1]; its largest value is 1
    mask: Any  # of the weights that decay: not of biases and norms

    @property
    def peak_learning_rate(self) -> Any:
        """α."""
        return self.hparams["learning_rate"]

    @property
    def strength(self) -> Any:
        """The strength of the method; 0 if the entry has none."""
        return self.hparams["weight_decay"]

    @property
    def b1(self) -> float:
        """Adam's b1."""
        return B1

    def learning_rate(self, step: Any) -> Any:
        """γ_t."""
        return self.peak_learning_rate * self.eta(step)

    def adam(self) -> optax.GradientTransformation:
        """Adam's preconditioner, with the b2 of the board."""
        return optax.scale_by_adam(b1=B1, b2=self.hparams["b2"])

    def step(self) -> optax.GradientTransformation:
        """The product with -γ_t."""
        return optax.scale_by_learning_rate(self.learning_rate)


Chain = Callable[[Run], optax.GradientTransformation]


def make_optimizer(
    chain: Chain, hparams: HParams, eta: Multiplier, mask: Any
) -> optax.GradientTransformation:
    """Build the chain of an entry; with `chain` bound, an optimizer factory."""
    return chain(Run(hparams, eta, mask))
