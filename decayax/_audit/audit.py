r"""What decay an optimizer really applies, found by using it.

The optimizer is followed as a black box (`probe`) under gradients of several sizes and
weights of several sizes (`measure`); where the rates differ tells the mode
(`findings`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from decayax._audit.clues import clues
from decayax._audit.findings import find, mode_of, NONE, not_auditable
from decayax._audit.leaf import LeafAudit
from decayax._audit.measure import measure, probes_of, Readings, survival
from decayax._audit.plan import Missing, Plan, plan_of
from decayax._audit.readings import Reading, Setting
from decayax._audit.report import Audit
from decayax._core.paths import path_str
from decayax._core.strength import as_strength, short_repr
from decayax._transforms.kernel import is_optimizer


NAME = "audit"
WEIGHT_SCALES = (0.1, 10.0)  # beside 1
Factory = Callable[[float], optax.GradientTransformation]


def audit(
    optimizer: optax.GradientTransformation | optax.MultiSteps | Factory,
    params: Any,
    *,
    learning_rate: float = 1e-3,
    gradients: Any = None,
    gradient_scales: Sequence[float] = (0.01, 1.0, 100.0),
    steps: int = 200,
    seeds: int = 2,
    weight_decay: float | None = None,
    extra_args: dict[str, Any] | None = None,
    sample: bool | None = None,
) -> Audit:
    r"""What decay an optimizer really applies to each parameter.

    .. math::
        \mathrm{rate} = 1 - \mathrm{kept}^{1/T}, \qquad
        \mathrm{kept} = \frac{\mathrm d\theta_T}{\mathrm d\theta_0}
        \;\text{ with the gradients } g_1 \ldots g_T \text{ held fixed}

    The optimizer is used as a black box, on weights and gradients drawn anew: normal,
    the weights of each leaf of its own size. Each rate is the mean over gradients g and
    −g. It is measured twice, by differentiating every step and by comparing two runs
    from (1 ± 0.1)θ₀, which also sees signs, gates and rounding. Gradients and weights
    of other sizes tell the mode of each leaf, the most serious one that holds:

    ``growth``, a negative rate; ``gradient-dependent``, as L2 is behind a
    preconditioner; ``scale-dependent``, by the size of the weights, as with a trust
    ratio; ``uniform``; ``none``.

    Args:
        optimizer: any ``optax.GradientTransformation``, ``optax.MultiSteps``, or a
            factory, learning rate -> optimizer, which also reveals whether the rate
            follows the learning rate.
        params: the parameters, or their ``jax.ShapeDtypeStruct``s. They are not
            changed; of their values only the root mean square of each leaf is used.
        learning_rate: > 0, what a factory is called with, and with half of it.
        gradients: gradients as an example; leaves that are 0 throughout, or None, get
            no gradient in the audit either. None: all leaves get some.
        gradient_scales: standard deviations of the gradients; the rate that is
            reported is that of the middle one.
        steps: :math:`T \ge 1`.
        seeds: > 0, gradient sequences of the middle scale.
        weight_decay: the strength that was asked for, if it cannot be seen from the
            optimizer: if it is not 0 and nothing decays, that is a finding.
        extra_args: further keywords for ``optimizer.update``; a ``value`` of 1 is made
            up where one is needed. Without its objective an optimizer with a line
            search is not auditable.
        sample: whether to follow a few weights of each leaf only. None: if the
            optimizer treats each weight for itself.

    Returns:
        An audit: ``print`` it for a table; ``.leaves`` and ``.findings`` are plain
        data; ``.check()`` raises on serious findings. Rates are per call of ``update``.

    Raises:
        TypeError, ValueError: no optimizer, a leaf that is no array, numbers out of
            range; what the optimizer itself raises.

    Example:
        >>> import decayax as dx, jax.numpy as jnp, optax
        >>> params = {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}
        >>> mask = dx.masks.no_bias_or_norm
        >>> print(dx.audit(optax.adamw(1e-3, weight_decay=0.1, mask=mask), params))
        parameter  dtype    mode     rate/step  half-life
        bias       float32  none     0          never
        kernel     float32  uniform  0.0001     6931 steps
        followed over 200 steps on every weight
        nothing to find fault with

    Reference:
        The sensitivity of the trajectory to its start; for decoupled decay it is the
        factor :math:`(1 - \gamma\lambda)^T` of Loshchilov and Hutter,
        https://arxiv.org/abs/1711.05101, equation 1.
    """
    _check(learning_rate, gradient_scales, steps, seeds, weight_decay, extra_args)
    middle = sorted(gradient_scales)[len(gradient_scales) // 2]
    main = Setting(0, middle, 1.0)
    settings = [
        *(main._replace(gradient_scale=scale) for scale in gradient_scales),
        *(main._replace(seed=seed) for seed in range(1, seeds)),
        *(main._replace(weight_scale=scale) for scale in WEIGHT_SCALES),
    ]
    made = _made(optimizer, learning_rate)
    # The parts of Optax need not be clean under the caller's strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        try:
            plan = plan_of(made, params, gradients, extra_args, sample, steps)
        except Missing as missing:
            return Audit((), (not_auditable(str(missing)),), steps, False, False)
        probes = probes_of(plan)
        readings = measure(plan, probes, settings)
        leaves = _leaves(plan, main, readings)
        decaying = [leaf.mode != NONE for leaf in leaves]
        kept = survival(plan, probes.difference, main, decaying)
        leaves = [x._replace(survives=s) for x, s in zip(leaves, kept, strict=True)]
        if made is not optimizer:
            slower = plan._replace(optimizer=_made(optimizer, learning_rate / 2))
            half = measure(slower, probes_of(slower), [main])[main]
            leaves = _with_learning_rate(leaves, readings[main], half)
    findings = find(leaves, clues(made), weight_decay)
    return Audit(tuple(leaves), findings, steps, plan.elementwise, plan.sampled)


def _leaves(plan: Plan, main: Setting, readings: Readings) -> list[LeafAudit]:
    """What is reported of each leaf, from its readings."""
    leaves = []
    for index, path in enumerate(plan.paths):
        shape, reading = plan.given[path], readings[main][index]
        own = {setting: found[index] for setting, found in readings.items()}
        mode = mode_of(main, own, plan.elementwise)
        leaves.append(
            LeafAudit(
                path=path_str(path),
                shape=tuple(shape.shape),
                dtype=str(shape.dtype),
                role=plan.roles[path],
                mode=mode,
                rate=0.0 if mode == NONE else reading.rate,
                spread=(reading.low, reading.high),
                intended=reading.intended,
                realised=reading.realised,
                by_gradient_scale=tuple(
                    (setting.gradient_scale, r.rate)
                    for setting, r in sorted(own.items())
                    if setting.seed == main.seed and setting.is_plain
                ),
                by_weight_scale=tuple(
                    (setting.weight_scale, r.rate)
                    for setting, r in sorted(own.items())
                    if setting[:2] == main[:2]
                ),
                over_time=tuple(reading.over_time),
                follows_learning_rate=None,
                survives=None,
                answers=reading.moved,
            )
        )
    return leaves


def _with_learning_rate(
    leaves: list[LeafAudit], full: list[Reading], half: list[Reading]
) -> list[LeafAudit]:
    """What half the learning rate does to the rates, where there are any."""
    return [
        leaf
        if leaf.mode == NONE or not of_full.significant
        else leaf._replace(follows_learning_rate=_follows(of_half.rate / of_full.rate))
        for leaf, of_full, of_half in zip(leaves, full, half, strict=True)
    ]


def _follows(ratio: float) -> bool | None:
    """Of half the learning rate: half the rate, the same, or neither."""
    return True if 0.45 < ratio < 0.55 else False if ratio > 0.95 else None


def _check(
    learning_rate: Any,
    gradient_scales: Any,
    steps: Any,
    seeds: Any,
    weight_decay: Any,
    extra_args: Any,
) -> None:
    if not isinstance(gradient_scales, Sequence) or not gradient_scales:
        raise TypeError(
            f"{NAME}: gradient_scales must be some numbers > 0, got "
            f"{short_repr(gradient_scales)}. Write (0.01, 1.0, 100.0)."
        )
    scales = [("a gradient scale", scale) for scale in gradient_scales]
    for label, value in [("learning_rate", learning_rate), *scales]:
        if as_strength(NAME, label, value, "Write a number > 0.") == 0.0:
            raise ValueError(f"{NAME}: {label} must be > 0, got {value}.")
    for label, value in {"steps": steps, "seeds": seeds}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"{NAME}: {label} must be a whole number >= 1, got {short_repr(value)}."
            )
    if weight_decay is not None:
        as_strength(NAME, "weight_decay", weight_decay)
    if not isinstance(extra_args, dict | None):
        raise TypeError(
            f"{NAME}: extra_args must be the keywords of optimizer.update as a dict, "
            f"got {short_repr(extra_args)}."
        )


def _made(optimizer: Any, learning_rate: float) -> Any:
    """The optimizer itself, or what the factory makes."""
    if is_optimizer(optimizer):
        return optimizer
    made = optimizer(learning_rate) if callable(optimizer) else optimizer
    if not is_optimizer(made):
        raise TypeError(
            f"{NAME}: optimizer must be an optax.GradientTransformation or a function "
            f"from a learning rate to one, got {short_repr(made)}."
        )
    return made
