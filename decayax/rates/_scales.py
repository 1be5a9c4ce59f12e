"""Weight decays from the size of a run or of the data: numbers that carry over."""

import jax

from decayax._core.strength import ScalarOrSchedule
from decayax.rates._checks import AMOUNT, convert, Converted, RESULT, STRENGTH, WIDTH


def weight_decay_from_normalised(
    normalised: ScalarOrSchedule,
    *,
    batch_size: jax.typing.ArrayLike,
    samples: jax.typing.ArrayLike,
    epochs: jax.typing.ArrayLike,
) -> Converted:
    r"""The weight decay of the AdamW paper from its normalised form.

    .. math:: \lambda = \lambda_{\text{norm}}\sqrt{b/(BT)}

    Args:
        normalised: :math:`\lambda_{\text{norm}} \ge 0`; the paper finds 0.025 to 0.05.
        batch_size: :math:`b > 0`, samples per step.
        samples: :math:`B > 0`, samples in the training set.
        epochs: :math:`T > 0`, epochs of the run, or of the current period where the
            schedule restarts.

    Returns:
        :math:`\lambda` of the *independent* convention, to be multiplied by
        :math:`\eta_t`; :func:`coupled_from_independent` gives that for ``dx.adamw``.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> decay = rates.weight_decay_from_normalised(
        ...     0.025, batch_size=128, samples=50_000, epochs=100
        ... )
        >>> print(f"{decay:.6g}")
        0.000126491

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Appendix B.1.
    """
    return convert(
        "weight_decay_from_normalised",
        lambda xp, normalised, batch_size, samples, epochs: (
            normalised * xp.sqrt(batch_size / samples / epochs)
        ),
        RESULT,
        normalised=(normalised, STRENGTH),
        batch_size=(batch_size, AMOUNT),
        samples=(samples, AMOUNT),
        epochs=(epochs, AMOUNT),
    )


def normalised_from_weight_decay(
    weight_decay: ScalarOrSchedule,
    *,
    batch_size: jax.typing.ArrayLike,
    samples: jax.typing.ArrayLike,
    epochs: jax.typing.ArrayLike,
) -> Converted:
    r"""The normalised form of a weight decay of the AdamW paper.

    .. math:: \lambda_{\text{norm}} = \lambda\sqrt{BT/b}

    Args:
        weight_decay: :math:`\lambda \ge 0` of the *independent* convention.
        batch_size: :math:`b > 0`, samples per step.
        samples: :math:`B > 0`, samples in the training set.
        epochs: :math:`T > 0`, epochs of the run or of the current period.

    Returns:
        :math:`\lambda_{\text{norm}}`, which carries over to other batches and lengths.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> normalised = rates.normalised_from_weight_decay(
        ...     1.26491e-4, batch_size=128, samples=50_000, epochs=100
        ... )
        >>> print(f"{normalised:.6g}")
        0.025

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Appendix B.1.
    """
    return convert(
        "normalised_from_weight_decay",
        lambda xp, weight_decay, batch_size, samples, epochs: (
            weight_decay / xp.sqrt(batch_size / samples / epochs)
        ),
        RESULT,
        weight_decay=(weight_decay, STRENGTH),
        batch_size=(batch_size, AMOUNT),
        samples=(samples, AMOUNT),
        epochs=(epochs, AMOUNT),
    )


def weight_decay_from_prior_width(
    prior_width: ScalarOrSchedule, *, samples: jax.typing.ArrayLike
) -> Converted:
    r"""The L2 strength that makes the minimum the MAP estimate under a Gaussian prior.

    .. math::
        \lambda = \frac{1}{N\sigma^2}, \qquad
        \tfrac1N\!\sum_n -\log p(y_n|\theta) + \tfrac\lambda2\|\theta\|^2

    Args:
        prior_width: :math:`\sigma > 0`, the prior's standard deviation of each weight;
            inf for a flat prior.
        samples: :math:`N > 0`, over which the loss is the *mean* negative log
            likelihood.

    Returns:
        :math:`\lambda` for ``dx.l2_penalty`` and ``dx.add_l2_to_grad``. Decoupled decay
        under RMSprop or Adam has another minimum.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> rates.weight_decay_from_prior_width(0.5, samples=1000)
        0.004

    Reference:
        MacKay, *A practical Bayesian framework for backpropagation networks*, Neural
        Computation 1992: weight decay as a Gaussian prior.
    """
    return convert(
        "weight_decay_from_prior_width",
        lambda xp, prior_width, samples: 1.0 / samples / prior_width / prior_width,
        RESULT,
        prior_width=(prior_width, WIDTH),
        samples=(samples, AMOUNT),
    )


def prior_width_from_weight_decay(
    weight_decay: ScalarOrSchedule, *, samples: jax.typing.ArrayLike
) -> Converted:
    r"""The standard deviation of the Gaussian prior that an L2 strength stands for.

    .. math:: \sigma = 1/\sqrt{N\lambda}

    Args:
        weight_decay: :math:`\lambda \ge 0` of ``dx.l2_penalty`` or
            ``dx.add_l2_to_grad``.
        samples: :math:`N > 0`, over which the loss is the *mean* negative log
            likelihood.

    Returns:
        :math:`\sigma`; inf where :math:`\lambda` is 0.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> rates.prior_width_from_weight_decay(0.004, samples=1000)
        0.5

    Reference:
        The inverse of :func:`weight_decay_from_prior_width`.
    """
    return convert(
        "prior_width_from_weight_decay",
        lambda xp, weight_decay, samples: 1.0 / xp.sqrt(weight_decay * samples),
        RESULT,
        weight_decay=(weight_decay, STRENGTH),
        samples=(samples, AMOUNT),
    )
