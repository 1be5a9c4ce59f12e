"""From what was measured to the audit of each leaf, and to what the findings need."""

import math

import numpy as np

from decayax._audit import by_step, causes, patterns
from decayax._audit.finding import Evidence
from decayax._audit.leaf import LeafAudit
from decayax._audit.measured import Everything, Measured, Request
from decayax._audit.modes import CONSTRAINED, NONE, NOT_FINITE, WITHOUT_DECAY
from decayax._audit.readings import Reading, Setting, varied
from decayax._audit.survival import is_narrow, MAX_STANDARD_ERROR, Survival
from decayax._core.paths import path_str


def evidence_of(everything: Everything, request: Request) -> list[Evidence]:
    """The audit of each leaf, with what the findings need."""
    return [
        _evidence(everything, request, index, leaf)
        for index, leaf in enumerate(everything.leaves)
    ]


def _evidence(
    everything: Everything, request: Request, index: int, leaf: Measured
) -> Evidence:
    audit = _leaf_audit(everything, request, index, leaf)
    decays = audit.mode not in (NONE, CONSTRAINED, NOT_FINITE)
    cause = causes.cause_of(
        audit.mode,
        request.main,
        leaf.readings,
        clipped=everything.clipped[index],
        live=leaf.live,
    )
    jvp = leaf.main.jvp_trace
    moves = jvp is not None and np.mean(jvp.relative_step) > 1e-6
    return Evidence(
        leaf=audit,
        cause=cause,
        extremes=_extremes(leaf.main),
        not_finite=_not_finite(everything, index, leaf, audit.dtype),
        clipped_to=1.0
        if cause == causes.PRECONDITIONER
        else everything.clipped_to[index],
        share_of_steps=patterns.share_of_steps(leaf.main) if decays else 1.0,
        still_changes=decays
        and not request.later_steps
        and patterns.still_changes(leaf.main),
        proportional=audit.mode == NONE and leaf.main.subject.exact and bool(moves),
        anchored=leaf.anchored,
        later_rate=everything.later_rates[index],
    )


def _leaf_audit(
    everything: Everything, request: Request, index: int, leaf: Measured
) -> LeafAudit:
    plan, main = everything.plan, leaf.main
    path, shape = list(plan.shapes.items())[index]
    mode, fraction = _in_own_dtype(everything.survival, index, leaf, shape.dtype)
    no_rate = {NONE: 0.0, CONSTRAINED: math.nan, NOT_FINITE: math.nan}
    by_steps = leaf.by_step
    if mode in (CONSTRAINED, NOT_FINITE):
        by_steps = tuple((step, math.nan) for step, _ in by_steps)
    # For single weights and steps the difference has too few digits.
    single = main.best if main.jvp is None or main.use_value else main.jvp
    slower = everything.slower[index] if everything.slower else None
    return LeafAudit(
        path=path_str(path),
        shape=tuple(shape.shape),
        dtype=str(shape.dtype),
        role=plan.roles[path],
        mode=mode,
        rate=no_rate.get(mode, main.best.rate),
        spread=single.spread,
        rate_from_jvp=math.nan if main.jvp is None else main.jvp.rate,
        rate_from_difference=main.difference.rate,
        by_gradient_scale=_by_scale(leaf, request.main, "gradient_scale"),
        by_weight_scale=_by_scale(leaf, request.main, "weight_scale"),
        by_step=by_steps,
        over_time=tuple(single.over_time.tolist()),
        kept=by_step.kept_share(by_steps, request.horizon) if request.horizon else None,
        follows_learning_rate=_follows(main, slower) if mode != NONE else None,
        surviving_fraction=fraction,
        depends_on_gradient=main.depends_on_gradient,
    )


def _extremes(reading: Reading) -> tuple[float, float]:
    """The smallest and the largest rate of the sampled weights."""
    rates = reading.best.per_weight
    known = rates[np.isfinite(rates)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)


def _by_scale(
    leaf: Measured, main: Setting, name: str
) -> tuple[tuple[float, float], ...]:
    return tuple((x, r.best.rate) for x, r in varied(leaf.readings, main, name))


def _in_own_dtype(
    survival: Survival | None, index: int, leaf: Measured, dtype: np.dtype
) -> tuple[str, float | None]:
    """The mode, and the fraction of the rate that survives in the leaf's dtype."""
    if survival is None or not is_narrow(dtype) or leaf.mode == NOT_FINITE:
        return leaf.mode, None
    if not survival.finite[index]:
        return NOT_FINITE, None
    # A larger error makes the fraction unknown.
    known = survival.errors[index] <= MAX_STANDARD_ERROR
    decays = leaf.mode not in WITHOUT_DECAY
    return leaf.mode, float(survival.fractions[index]) if known and decays else None


def _not_finite(everything: Everything, index: int, leaf: Measured, dtype: str) -> str:
    """When the weights become infinite or NaN; empty if they do not."""
    settings = [s for s, reading in leaf.readings.items() if not reading.finite]
    if settings:
        scales = sorted({setting.gradient_scale for setting in settings})
        return "at |g| = " + ", ".join(f"{scale:g}" for scale in scales)
    survival = everything.survival
    if survival is not None and not survival.finite[index]:
        return f"in {dtype}"
    return ""


def _follows(full: Reading, half: Reading | None) -> bool | None:
    """Whether half the learning rate gives half the rate; None if it is not clear."""
    if half is None or not full.best.significant:
        return None
    half = half._replace(use_value=full.use_value)
    ratio = half.best.rate / full.best.rate
    if 0.45 < ratio < 0.55:
        return True
    return False if ratio > 0.95 else None
