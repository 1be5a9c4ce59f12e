"""Masks by the role of each parameter: kernel, embedding, bias, norm scale or other."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

from decayax._core.paths import leaves_with_path
from decayax.masks._mask import Decision, Decisions, Mask
from decayax.masks._resolve import as_multiplier, fit_to_leaf, Multiplier
from decayax.masks._roles import OTHER, roles


def by_role(
    *,
    kernel: Multiplier = True,
    embedding: Multiplier = True,
    bias: Multiplier = False,
    norm_scale: Multiplier = False,
    other: Multiplier | None = None,
) -> Mask:
    """A mask by the role of each parameter.

    The role follows from the first of these that is known: the words in the leaf's own
    name (``kernel``, ``w``, ``bias``, ``scale``, ...); the type of the module in a tree
    of modules (Equinox); the shape of the bias in the same module (the weight of a norm
    has the same shape, the weight of a layer has more axes); the name of the module
    (``ln_1``, ``q_proj``, ``wte``). If none is known, the role is guessed from the
    number of axes, and ``describe`` marks it with a question mark.

    Args:
        kernel: multiplier of dense, convolution, attention and recurrent weights.
        embedding: multiplier of token and position tables.
        bias: multiplier of biases, including the biases of norms.
        norm_scale: multiplier of the scales of LayerNorm, RMSNorm, BatchNorm, ...
        other: multiplier of all other parameters. None: 1 for leaves with 2 or more
            axes, 0 for the others. ``describe`` marks these, too: check them.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> query = {"kernel": jnp.ones((2, 4, 3)), "bias": jnp.ones((4, 3))}
        >>> dx.masks.by_role()({"query": query})
        {'query': {'bias': 0.0, 'kernel': 1.0}}

    Reference:
        BERT's optimizer (Devlin et al., https://arxiv.org/abs/1810.04805,
        optimization.py) excludes norms and biases.
    """
    name = "masks.by_role"
    given = {
        "kernel": kernel,
        "embedding": embedding,
        "bias": bias,
        "norm_scale": norm_scale,
        "other": other,
    }
    for role, multiplier in given.items():
        if role != OTHER or multiplier is not None:
            as_multiplier(name, role, multiplier)
    return Mask(name, _decide_by_role, kwargs=given)


def _decide_by_role(name: str, params: optax.Params, **given: Any) -> Decisions:
    leaves = dict(leaves_with_path(params))
    decided = {}
    for path, role in roles(params).items():
        multiplier, why = given[role.name], ""
        if multiplier is None:  # only `other` may be None
            multiplier = np.ndim(leaves[path]) >= 2
            why = ", 2 or more axes" if multiplier else ", fewer than 2 axes"
        elif not role.sure and role.name != OTHER:
            why = ", guessed from its axes"
        checked = as_multiplier(name, role.name, multiplier)
        fitted = fit_to_leaf(name, role.name, checked, path, leaves[path])
        decided[path] = Decision(fitted, f"role {role.name}{why}")
    return decided


def _decide_no_bias_or_norm(name: str, params: optax.Params) -> Decisions:
    return _decide_by_role(name, params, **by_role().kwargs)


no_bias_or_norm = Mask("masks.no_bias_or_norm", _decide_no_bias_or_norm)
