"""Masks by the role of each parameter: kernel, embedding, bias, norm scale or other."""

from __future__ import annotations

import functools
from typing import Any

import optax

from decayax._core.paths import leaves_with_path
from decayax.masks._mask import Decision, Decisions, Mask
from decayax.masks._resolve import as_multiplier, fit_to_leaf, Multiplier
from decayax.masks._roles import roles
from decayax.masks._words import OTHER, POSITION, SSM, TOKEN


def by_role(
    *,
    kernel: Multiplier = True,
    embedding: Multiplier = True,
    bias: Multiplier = False,
    norm_scale: Multiplier = False,
    other: Multiplier | None = None,
    position: Multiplier | None = None,
    token: Multiplier | None = None,
    ssm: Multiplier | None = None,
) -> Mask:
    """A mask by the role of each parameter.

    1. A leaf whose own name has a word for a bias is a bias; for a table, an embedding;
       for a low-rank factor, a temperature or a special token, "other".
    2. A leaf named as a scale (``scale``, ``gamma``, ``g``) is a norm scale.
    3. A leaf named as a weight (``w``, ``weight``, ``kernel``) is compared with the
       bias in the same module: the weight of a norm has the shape of its bias, the
       weight of a layer has more axes.
    4. Without a bias, the type of the module (Equinox) decides, then the last known
       word in its name (``ln_1``, ``q_proj``, ``wte``), then the number of axes.
    5. ``describe`` marks a role with a question mark if only the axes decide, or if a
       name is not enough: a matrix is surely a scale only in a norm.

    The axes of stacked layers do not count if a norm in the same layers shows them: the
    first axes, or the last one if no other axis is shared. In ``optax.masked`` and
    ``optax.partition``, a ``MaskedNode`` may hide the norm: compute the mask on the
    whole tree first, ``mask = by_role()(params)``.

    Args:
        kernel: multiplier of dense, convolution, attention and recurrent weights.
        embedding: multiplier of token and position tables.
        bias: multiplier of biases, including the biases of norms.
        norm_scale: multiplier of the scales of LayerNorm, RMSNorm, BatchNorm, ...
        other: multiplier of all other parameters. None: 1 for leaves with 2 or more
            axes, 0 for the others. ``describe`` marks these, too: check them.
        position: multiplier of position tables. None: as ``embedding``.
        token: multiplier of class, mask, register and other special tokens. None: as
            ``other``.
        ssm: multiplier of the state of recurrent layers: ``A_log``, ``D``, ``dt_bias``,
            ``log_step``, ``a_param``, ... None: as ``other`` (``dt_bias``: as
            ``bias``).

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> query = {"kernel": jnp.ones((2, 4, 3)), "bias": jnp.ones((4, 3))}
        >>> dx.masks.by_role()({"query": query})
        {'query': {'bias': 0.0, 'kernel': 1.0}}

    Reference:
        BERT's optimizer (Devlin et al., https://arxiv.org/abs/1810.04805,
        optimization.py) excludes norms and biases. For the groups: ``no_weight_decay``
        of timm's vision transformers, ``_no_weight_decay`` in the code of Mamba.
    """
    name = "masks.by_role"
    given = {
        "kernel": kernel,
        "embedding": embedding,
        "bias": bias,
        "norm_scale": norm_scale,
        "other": other,
    }
    groups = {POSITION: position, TOKEN: token, SSM: ssm}
    given |= {group: m for group, m in groups.items() if m is not None}
    for role, multiplier in given.items():
        if role != OTHER or multiplier is not None:
            as_multiplier(name, role, multiplier)
    return Mask(name, _decide_by_role, kwargs=given)


def _decide_by_role(name: str, params: optax.Params, **given: Any) -> Decisions:
    leaves = dict(leaves_with_path(params))
    decided = {}
    for path, role in roles(params).items():
        decides = role.group if role.group in given else role.name
        multiplier, why = given[decides], ""
        if multiplier is None:  # only `other` may be None
            multiplier = role.axes >= 2
            why = ", 2 or more axes" if multiplier else ", fewer than 2 axes"
        elif not role.sure and decides not in (OTHER, role.group):
            why = ", guessed"
        checked = as_multiplier(name, decides, multiplier)
        fitted = fit_to_leaf(name, decides, checked, path, leaves[path])
        decided[path] = Decision(fitted, f"role {decides}{why}")
    return decided


def _decide_ready_made(name: str, params: optax.Params, **given: Any) -> Decisions:
    # Not in Mask.kwargs: a ready-made mask is pickled by its name.
    return _decide_by_role(name, params, **by_role(**given).kwargs)


no_bias_or_norm = Mask("masks.no_bias_or_norm", _decide_ready_made)
"""The usual default, ``by_role()`` ready made: kernels and embeddings decay."""

# timm excludes pos_embed, cls_token and dist_token (`no_weight_decay` of its vision
# transformers) and Swin's relative_position_bias_table; Mamba's code sets
# `_no_weight_decay` on A_log, D and, in Mamba-2, dt_bias. S4 does not decay A and dt.
no_bias_norm_or_token = Mask(
    "masks.no_bias_norm_or_token",
    functools.partial(_decide_ready_made, position=False, token=False, ssm=False),
)
"""The same, and no decay of position tables, special tokens and recurrent states."""
