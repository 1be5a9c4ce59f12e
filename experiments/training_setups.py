"""Training setups that more than one study uses."""

import dataclasses
import functools

from experiments.data import digits, fashion_mnist, teacher
from experiments.engine.config import cosine, OptimizerFactory, StaticConfig
from experiments.models.mlp import mlp
from experiments.tasks import Classification


# 1437 training, 2000 validation and 2000 test examples.
STUDENT = Classification(
    data=functools.partial(teacher.load, 3437),
    model=functools.partial(mlp, (64, 128, 10)),
    classes=teacher.CLASSES,
    train_size=1437,
    batch=128,
    label_noise=0.25,
)
# scikit-learn's digits: 900 training, 300 validation and 597 test examples.
DIGITS = Classification(
    data=digits.load,
    model=functools.partial(mlp, (64, 128, 10)),
    classes=digits.CLASSES,
    train_size=900,
    batch=50,
    label_noise=0.4,
)
LAYERNORM = dataclasses.replace(
    DIGITS, model=functools.partial(mlp, (64, 64, 64, 10), True)
)
# Fashion-MNIST: 2000 training, 3000 validation and 5000 test images.
FASHION = Classification(
    data=functools.partial(fashion_mnist.load, 5000, 5000),
    model=functools.partial(mlp, (784, 32, 10)),
    classes=fashion_mnist.CLASSES,
    train_size=2000,
    batch=100,
    label_noise=0.4,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitsPlan:
    """Base of plans on digits with label noise and an MLP with one hidden layer."""

    epochs: int
    epochs_per_segment: int
    chunk: int  # parallel cells; another number changes the last bits
    batch: int = 50
    train_size: int = 900
    label_noise: float = 0.4
    hidden: int = 128

    def setup(self, dtype: str = "float32") -> Classification:
        """Return the data, the model and the loss."""
        return Classification(
            data=digits.load,
            model=functools.partial(mlp, (64, self.hidden, digits.CLASSES)),
            classes=digits.CLASSES,
            train_size=self.train_size,
            batch=self.batch,
            label_noise=self.label_noise,
            dtype=dtype,
        )

    def config(
        self, make_optimizer: OptimizerFactory, dtype: str = "float32"
    ) -> StaticConfig:
        """Return the configuration of one optimizer, with a cosine schedule to 0."""
        return StaticConfig(
            self.setup(dtype),
            make_optimizer,
            self.epochs,
            self.epochs_per_segment,
            cosine,
        )
