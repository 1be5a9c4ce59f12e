"""Masks by what each parameter is for."""

import dataclasses
from typing import Any

import numpy as np

from decayax._core.paths import leaves_with_path, Path
from decayax.masks._mask import Decision, Mask, Multiplier
from decayax.masks._resolve import as_multiplier
from decayax.masks._roles import OTHER, ROLES, roles


def by_role(
    *,
    kernel: Multiplier = True,
    embedding: Multiplier = True,
    bias: Multiplier = False,
    norm_scale: Multiplier = False,
    other: Multiplier | None = None,
) -> Mask:
    r"""A mask by what each parameter is for.

    .. math:: m_i = m_{\text{role}(i)}

    The role is read from the words of the leaf's own name (``kernel``, ``w``, ``bias``,
    ``scale``, ``embedding``, ...), then from the module around it, by its type in trees
    of modules (Equinox) or by its name (``ln_1``, ``q_proj``, ``wte``), and from the
    bias beside it, whose shape a norm's weight has and a layer's has not. Only what
    these leave open is decided by the number of axes, and ``describe`` marks it.

    Args:
        kernel: multiplier of dense, convolution, attention and recurrent weights.
        embedding: multiplier of token and position tables.
        bias: multiplier of biases, those of norms too.
        norm_scale: multiplier of the scales of LayerNorm, RMSNorm, BatchNorm, ...
        other: multiplier of all else; None: 1 for matrices and more, 0 for the rest.
            ``describe`` marks these, too, with a question mark: look at them.

    Returns:
        A mask for ``mask=``: a function from parameters to a tree of multipliers.

    Raises:
        TypeError, ValueError: a multiplier that is no bool and no number >= 0; when
            used, one bare array in place of a tree.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> query = {"kernel": jnp.ones((2, 4, 3)), "bias": jnp.ones((4, 3))}
        >>> dx.masks.by_role()({"query": query})
        {'query': {'bias': 0.0, 'kernel': 1.0}}

    Reference:
        The mask of Loshchilov and Hutter's followers since BERT (Devlin et al.,
        https://arxiv.org/abs/1810.04805, optimization.py): no norms, no biases.
    """
    given = (kernel, embedding, bias, norm_scale, 0.0 if other is None else other)
    checked = {
        role: as_multiplier("masks.by_role", role, value)
        for role, value in zip(ROLES, given, strict=True)
    }

    def decide(params: Any) -> dict[Path, Decision]:
        shapes = {path: np.shape(leaf) for path, leaf in leaves_with_path(params)}
        decided = {}
        for path, (role, sure) in roles(params).items():
            multiplier, rule = checked[role], f"role {role}"
            if not sure and role != OTHER:
                rule += ", a guess by its axes"
            if role == OTHER and other is None:
                matrix = len(shapes[path]) >= 2
                multiplier = float(matrix)
                rule += ", a matrix or more" if matrix else ", less than a matrix"
            decided[path] = Decision(multiplier, rule)
        return decided

    return Mask("masks.by_role", decide)


no_bias_or_norm = dataclasses.replace(by_role(), name="masks.no_bias_or_norm")
