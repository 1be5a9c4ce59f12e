"""Weight decays in units of the run or of the data, which carry over to other runs."""

from __future__ import annotations

from decayax.rates._checks import (
    A,
    convert,
    DURATION,
    NONNEGATIVE,
    POSITIVE,
    Real,
    Value,
)


def weight_decay_from_normalised(
    normalised: Value, *, batch_size: Real | A, samples: Real | A, epochs: Real | A
) -> Value | A:
    r"""The weight decay of the AdamW paper from its normalised form.

    .. math:: \lambda = \lambda_{\text{norm}}\sqrt{b/(BT)}

    Args:
        normalised: :math:`\lambda_{\text{norm}} \ge 0`; the paper finds 0.025 to 0.05.
        batch_size: :math:`b > 0`, samples per step.
        samples: :math:`B > 0`, samples in the training set.
        epochs: :math:`T > 0`, of the run, or of the period if the schedule restarts.

    Returns:
        :math:`\lambda` of the *independent* convention.
        :func:`lr_scaled_from_independent` converts it for ``dx.adamw``.

    Example:
        >>> from decayax import rates
        >>> run = {"batch_size": 128, "samples": 50_000, "epochs": 100}
        >>> print(f"{rates.weight_decay_from_normalised(0.025, **run):.6g}")
        0.000126491

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Appendix B.1.
    """
    return convert(
        "rates.weight_decay_from_normalised",
        lambda xp, normalised, batch_size, samples, epochs: (
            normalised * xp.sqrt(batch_size / samples / epochs)
        ),
        normalised=(normalised, NONNEGATIVE),
        batch_size=(batch_size, POSITIVE),
        samples=(samples, POSITIVE),
        epochs=(epochs, POSITIVE),
    )


def normalised_from_weight_decay(
    weight_decay: Value, *, batch_size: Real | A, samples: Real | A, epochs: Real | A
) -> Value | A:
    r"""The normalised form of a weight decay of the AdamW paper.

    .. math:: \lambda_{\text{norm}} = \lambda\sqrt{BT/b}

    Args:
        weight_decay: :math:`\lambda \ge 0` of the *independent* convention.
        batch_size: :math:`b > 0`, samples per step.
        samples: :math:`B > 0`, samples in the training set.
        epochs: :math:`T > 0`, of the run or of the period.

    Returns:
        :math:`\lambda_{\text{norm}}`, which carries over to other batches and lengths.

    Example:
        >>> from decayax import rates
        >>> run = {"batch_size": 128, "samples": 50_000, "epochs": 100}
        >>> print(f"{rates.normalised_from_weight_decay(1.26491e-4, **run):.6g}")
        0.025
    """
    return convert(
        "rates.normalised_from_weight_decay",
        lambda xp, weight_decay, batch_size, samples, epochs: (
            weight_decay / xp.sqrt(batch_size / samples / epochs)
        ),
        weight_decay=(weight_decay, NONNEGATIVE),
        batch_size=(batch_size, POSITIVE),
        samples=(samples, POSITIVE),
        epochs=(epochs, POSITIVE),
    )


def weight_decay_from_prior_width(
    prior_width: Value, *, samples: Real | A
) -> Value | A:
    r"""The L2 strength that makes the minimum the MAP estimate under a Gaussian prior.

    .. math::
        \lambda = \frac{1}{N\sigma^2}, \qquad
        \tfrac1N\!\sum_n -\log p(y_n|\theta) + \tfrac\lambda2\|\theta\|^2

    Args:
        prior_width: :math:`\sigma > 0`, the prior's standard deviation; inf if flat.
        samples: :math:`N > 0`. The loss is the samples' *mean* negative log likelihood.

    Returns:
        :math:`\lambda` for ``dx.l2_penalty`` and ``dx.add_l2_to_grad``. Decoupled decay
        with RMSprop or Adam has another minimum.

    Example:
        >>> from decayax import rates
        >>> rates.weight_decay_from_prior_width(0.5, samples=1000)
        0.004

    Reference:
        MacKay, *A practical Bayesian framework for backpropagation networks*, 1992.
    """
    return convert(
        "rates.weight_decay_from_prior_width",
        lambda xp, prior_width, samples: 1.0 / samples / prior_width / prior_width,
        prior_width=(prior_width, DURATION),
        samples=(samples, POSITIVE),
    )


def prior_width_from_weight_decay(
    weight_decay: Value, *, samples: Real | A
) -> Value | A:
    r"""The standard deviation of the Gaussian prior that an L2 strength stands for.

    .. math:: \sigma = 1/\sqrt{N\lambda}

    Args:
        weight_decay: :math:`\lambda \ge 0` of ``dx.l2_penalty``.
        samples: :math:`N > 0`, as for :func:`weight_decay_from_prior_width`.

    Returns:
        :math:`\sigma`; inf where :math:`\lambda` is 0.

    Example:
        >>> from decayax import rates
        >>> rates.prior_width_from_weight_decay(0.004, samples=1000)
        0.5
    """
    return convert(
        "rates.prior_width_from_weight_decay",
        lambda xp, weight_decay, samples: 1.0 / xp.sqrt(weight_decay * samples),
        weight_decay=(weight_decay, NONNEGATIVE),
        samples=(samples, POSITIVE),
    )
