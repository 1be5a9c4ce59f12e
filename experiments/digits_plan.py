"""How long and on what a study on scikit-learn's digits trains."""

import dataclasses
import functools

from experiments import tasks
from experiments.data import digits
from experiments.engine.plan import Chain, cosine, Static
from experiments.models.mlp import mlp


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitsPlan:
    """Digits with wrong training labels, an MLP with one hidden layer."""

    epochs: int
    epochs_per_segment: int
    chunk: int  # cells side by side; another number, other last bits
    batch: int = 50
    train_size: int = 900
    label_noise: float = 0.4
    hidden: int = 128

    def recipe(self, dtype: str = "float32") -> tasks.Classification:
        """What is trained."""
        return tasks.Classification(
            data=digits.load,
            model=functools.partial(mlp, (64, self.hidden, digits.CLASSES)),
            classes=digits.CLASSES,
            train_size=self.train_size,
            batch=self.batch,
            label_noise=self.label_noise,
            dtype=dtype,
        )

    def static(self, chain: Chain, dtype: str = "float32") -> Static:
        """One chain on it; the learning rate a cosine to 0."""
        recipe = self.recipe(dtype)
        return Static(recipe, chain, self.epochs, self.epochs_per_segment, cosine)
