r"""What decay an optimizer really applies, measured by running it.

The optimizer is a black box (`probe`). It runs under gradients of several sizes and on
weights of several sizes (`measure`). The differences of the rates show the mode
(`findings`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
import optax

from decayax._audit.arguments import NotAuditable
from decayax._audit.by_step import steps_of_horizon
from decayax._audit.declared import declared_decay, DeclaredDecay
from decayax._audit.evidence import evidence_of
from decayax._audit.finding import Finding
from decayax._audit.findings import find, NOTHING_TO_AUDIT
from decayax._audit.measured import measure_all, Request
from decayax._audit.plan import make_plan, Plan
from decayax._audit.report import Audit
from decayax._core.strength import as_strength, short_repr
from decayax._core.symmetry import match, require_symmetries, Symmetries
from decayax._transforms.trees import is_optimizer


NAME = "audit"
Optimizer: TypeAlias = optax.GradientTransformation | optax.MultiSteps


def audit(
    optimizer: Optimizer | Callable[[float], Optimizer],
    params: optax.Params,
    *,
    learning_rate: float = 1e-3,
    gradients: optax.Updates | None = None,
    gradient_scales: Sequence[float] = (0.01, 1.0, 100.0),
    steps: int = 200,
    at_steps: Sequence[int] | None = None,
    horizon: int | None = None,
    seeds: int = 2,
    weight_decay: float | None = None,
    extra_args: dict[str, Any] | None = None,
    axis_names: Sequence[str] = (),
    sample: bool | None = None,
    symmetries: Symmetries | None = None,
) -> Audit:
    r"""What decay an optimizer really applies to each parameter.

    .. math::
        \mathrm{rate} = 1 - \mathrm{retention}^{1/T}, \qquad
        \mathrm{retention} = \frac{\mathrm d\theta_T}{\mathrm d\theta_0}
        \;\text{ with the gradients } g_1 \ldots g_T \text{ held fixed}

    The optimizer is a black box. It runs on random normal weights and gradients; the
    weights of each leaf have the size of the parameter. Each rate is the mean over
    gradients g and −g. It is measured in three ways: by differentiating every step,
    from the difference of two runs that start at (1 ± 0.1)θ₀, which also sees signs,
    gates and rounding, and from the weights themselves, which shows a pull of constant
    size.

    Gradients and weights of other sizes show the mode of each leaf. If several hold,
    the first of these is reported:

    - ``not finite``: weights become infinite or NaN.
    - ``constrained``: a projection or a bound; the initial size is lost at once.
    - ``growth``: the rate is negative, for all weights or for at least 5 % of them.
    - ``gated``: in one step, some weights decay and others do not. The mean rate does
      not depend on the size of the gradients.
    - ``gradient-dependent``: the rate varies with the gradients, as for L2 before a
      preconditioner.
    - ``scale-dependent``: the rate varies with the size of the weights, as with a trust
      ratio or an L1 pull.
    - ``uneven``: weights of the leaf have different rates, which stay the same.
    - ``anchored``: a pull to weights, or to a norm, that the state keeps, such as the
      initial ones.
    - ``uniform``: the rate is the same for all of these.
    - ``none``: there is no decay.

    Args:
        optimizer: any Optax optimizer, or a factory, learning rate -> optimizer. A
            factory also shows whether the rate follows the learning rate. Errors of the
            optimizer are raised unchanged.
        params: the parameters, or their ``jax.ShapeDtypeStruct``s. They are not
            changed. Only the root mean square of each leaf's values is used.
        learning_rate: a number > 0. A factory is called with it and with half of it.
        gradients: example gradients. Leaves that are None, or 0 in all elements, get
            zero gradients in the audit. If rows or elements are 0, as in a batch's
            gradients of an embedding, the same part of them gets zero gradients. None:
            all leaves get gradients.
        gradient_scales: standard deviations of the gradients, > 0. The reported rate is
            that of the middle one.
        steps: :math:`T \ge 1`.
        at_steps: also measure at these later steps, >= 0. The counters of the state are
            advanced to each step. Mode and rate are then those at the step where the
            leaf decays fastest.
        horizon: the number of steps of the run. It chooses ``at_steps`` and gives the
            fraction of the initial weights that the run keeps.
        seeds: the number of gradient sequences at the middle scale, >= 1.
        weight_decay: the strength that the optimizer was given, if the audit cannot
            find it. If it is not 0 and nothing decays, that is a finding.
        extra_args: further keyword arguments for ``optimizer.update``. If ``value`` is
            needed and not given, the audit passes 1/(1 + step). An optimizer with a
            line search is not auditable without its objective.
        axis_names: names of axes over which the optimizer communicates, such as
            "batch" for ``jax.lax.pmean(..., "batch")``.
        sample: True measures a few weights of each leaf only; False measures all. None:
            a sample if the optimizer does the same to a part of a leaf.
        symmetries: the result of ``dx.scale_symmetries``, perhaps of a small model of
            the same depth. It adds findings about decay that the model does not see.

    Returns:
        An :class:`Audit`. ``print`` it for a table. ``.leaves`` and ``.findings`` are
        plain data, and ``.check()`` raises on serious findings. Rates are per call of
        ``update``.

    Example:
        >>> import decayax as dx, jax.numpy as jnp, optax
        >>> params = {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}
        >>> mask = dx.masks.no_bias_or_norm
        >>> print(dx.audit(optax.adamw(1e-3, weight_decay=0.1, mask=mask), params))
        parameter  dtype    mode     rate/step  half-life
        bias       float32  none     0          never
        kernel     float32  uniform  0.0001     6931 steps
        measured over 200 steps on every weight
        no problems found

    Reference:
        For decoupled decay the retention is the factor :math:`(1 - \gamma\lambda)^T` of
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, equation 1.
    """
    _check(learning_rate, gradient_scales, steps, seeds, weight_decay, extra_args)
    later = _later_steps(at_steps, horizon)
    built = _build(optimizer, learning_rate)
    is_factory = built is not optimizer
    slower = _build(optimizer, learning_rate / 2) if is_factory else None
    request = Request(tuple(gradient_scales), seeds, later, horizon, slower)
    # The caller may have strict promotion on, which parts of Optax do not support.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        try:
            plan = make_plan(
                built,
                params,
                gradients=gradients,
                extra_args=extra_args,
                axis_names=tuple(axis_names),
                sample=sample,
                steps=steps,
            )
        except NotAuditable as reason:
            finding = Finding("not auditable", True, *reason.args)
            return Audit((), (finding,), steps, False, False)
        declared = declared_decay(built, params)
        return _audit(plan, request, declared, weight_decay, symmetries)


def _audit(
    plan: Plan,
    request: Request,
    declared: DeclaredDecay,
    weight_decay: float | None,
    symmetries: Symmetries | None,
) -> Audit:
    """Measure and judge."""
    if symmetries is not None:
        require_symmetries(NAME, symmetries)
        match(NAME, symmetries, plan.shapes.items())
    if not sum(leaf.size for leaf in plan.shapes.values()):
        return Audit((), (NOTHING_TO_AUDIT,), plan.steps, plan.elementwise, False)
    # Overflow and 0/0 show as inf and NaN, which the findings report.
    with np.errstate(all="ignore"):
        everything = measure_all(plan, request)
        evidence = evidence_of(everything, request)
    return Audit(
        leaves=tuple(e.leaf for e in evidence),
        findings=find(evidence, declared, weight_decay, symmetries),
        steps=plan.steps,
        elementwise=plan.elementwise,
        sampled=everything.plan.sampled,
    )


def _later_steps(
    at_steps: Sequence[int] | None, horizon: int | None
) -> tuple[int, ...]:
    """The steps at which to measure, in order; empty for the first steps only."""
    if horizon is not None:
        _check_integer("horizon", horizon)
    if at_steps is None:
        return steps_of_horizon(horizon) if horizon else ()
    steps = list(at_steps) if isinstance(at_steps, Sequence | np.ndarray) else []
    if not steps or not all(map(_is_step, steps)):
        raise ValueError(
            f"{NAME}: at_steps must be integers from 0 to 2**31 - 1, got "
            f"{short_repr(at_steps)}. Pass (0, 1000, 10_000), for example."
        )
    return tuple(sorted(set(map(int, steps))))


def _is_step(step: Any) -> bool:
    is_integer = isinstance(step, int | np.integer) and not isinstance(step, bool)
    return is_integer and 0 <= int(step) < 2**31


def _check(learning_rate, gradient_scales, steps, seeds, weight_decay, extra_args):
    """Raise if an argument of `audit`, of any type, is out of its range."""
    if not isinstance(gradient_scales, Sequence) or not gradient_scales:
        raise TypeError(
            f"{NAME}: gradient_scales must be a sequence of numbers > 0, got "
            f"{short_repr(gradient_scales)}. Pass (0.01, 1.0, 100.0)."
        )
    scales = [("each of gradient_scales", scale) for scale in gradient_scales]
    for label, value in [("learning_rate", learning_rate), *scales]:
        if as_strength(NAME, label, value, "Pass a number > 0.") == 0.0:
            raise ValueError(
                f"{NAME}: {label} must be > 0, got {value}. "
                "Pass a number > 0, such as 0.001."
            )
    _check_integer("steps", steps)
    _check_integer("seeds", seeds)
    if weight_decay is not None:
        as_strength(NAME, "weight_decay", weight_decay)
    if not isinstance(extra_args, dict | None):
        raise TypeError(
            f"{NAME}: extra_args must be a dict of keyword arguments for "
            f"optimizer.update, got {short_repr(extra_args)}. Pass, for example, "
            "{'value': 1.0}."
        )


def _check_integer(label: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"{NAME}: {label} must be an integer >= 1, got {short_repr(value)}. "
            f"Pass {label}=2, for example."
        )


def _build(optimizer: Any, learning_rate: float) -> Any:
    """The optimizer itself, or the one that the factory builds."""
    if is_optimizer(optimizer):
        return optimizer
    built = optimizer(learning_rate) if callable(optimizer) else optimizer
    if not is_optimizer(built):
        raise TypeError(
            f"{NAME}: optimizer must be an optax.GradientTransformation or a function "
            f"learning_rate -> optimizer, got {short_repr(built)}. Pass, for example, "
            "optax.adamw(1e-3)."
        )
    return built
