"""What more than one study trains."""

import functools

from experiments.data import digits, fashion_mnist, teacher
from experiments.models.mlp import mlp
from experiments.tasks import Classification


# 1437 examples train, 2000 validate, 2000 test.
STUDENT = Classification(
    data=functools.partial(teacher.load, 3437),
    model=functools.partial(mlp, (64, 128, 10)),
    classes=teacher.CLASSES,
    train_size=1437,
    batch=128,
    label_noise=0.25,
)
# Of scikit-learn's digits 900 train, 300 validate, 597 test.
DIGITS = Classification(
    data=digits.load,
    model=functools.partial(mlp, (64, 128, 10)),
    classes=digits.CLASSES,
    train_size=900,
    batch=50,
    label_noise=0.4,
)
LAYERNORM = Classification(
    data=digits.load,
    model=functools.partial(mlp, (64, 64, 64, 10), True),
    classes=digits.CLASSES,
    train_size=900,
    batch=50,
    label_noise=0.4,
)
# Of Fashion-MNIST 2000 images train, 3000 validate, 5000 test.
FASHION = Classification(
    data=functools.partial(fashion_mnist.load, 5000, 5000),
    model=functools.partial(mlp, (784, 32, 10)),
    classes=fashion_mnist.CLASSES,
    train_size=2000,
    batch=100,
    label_noise=0.4,
)
