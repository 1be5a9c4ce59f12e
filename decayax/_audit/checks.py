"""The problems that one leaf can have: text, hint, and how to recognize them."""

from collections.abc import Callable

from decayax._audit import causes
from decayax._audit.finding import Evidence, Finding
from decayax._audit.leaf import LeafAudit
from decayax._audit.modes import (
    ANCHORED,
    CONSTRAINED,
    GATED,
    GRADIENT_DEPENDENT,
    GROWTH,
    NOT_FINITE,
    SCALE_DEPENDENT,
    UNEVEN,
    WITHOUT_DECAY,
)
from decayax._audit.survival import is_narrow


def decays(leaf: LeafAudit) -> bool:
    """Whether the leaf has a decay rate."""
    return leaf.mode not in WITHOUT_DECAY


def _depends_on_scale(e: Evidence, cause: str) -> bool:
    # The finding "clipped" explains it otherwise.
    return e.leaf.mode == SCALE_DEPENDENT and e.cause == cause and e.clipped_to >= 0.9


def _lost(leaf: LeafAudit) -> bool:
    # `not >= 0.5` and not `< 0.5`: nan is a loss too.
    return leaf.surviving_fraction is not None and not leaf.surviving_fraction >= 0.5


def rounding_is_unknown(leaf: LeafAudit) -> bool:
    """Whether rounding may remove the decay, but the noise hides how much."""
    return is_narrow(leaf.dtype) and decays(leaf) and leaf.surviving_fraction is None


# What several problems have in common. Each has a hint of its own.
NOT_FINITE_WEIGHTS = Finding(
    kind=NOT_FINITE,
    serious=True,
    text="the weights of {paths} become infinite or NaN {when}.",
    hint="",
)
DEPENDS_ON_GRADIENTS = Finding(
    kind=GRADIENT_DEPENDENT,
    serious=True,
    text="the decay of {paths} depends on the gradients. Rates of {first}.",
    hint="",
)
LOST_IN_ROUNDING = Finding(
    kind="lost in rounding",
    serious=True,
    text="rounding to {dtypes} removes more than half of the decay of {paths}. The "
    "smallest fraction that survives is {smallest}.",
    hint="",
)
DEPENDS_ON_SIZE = Finding(
    kind=SCALE_DEPENDENT,
    serious=False,
    text="the decay rate of {paths} depends on the size of the weights.",
    hint="",
)
CLIPPED = Finding(
    kind="clipped",
    serious=False,
    text="a clip or a normalization of the finished step leaves {clipped_to} of "
    "the decay of {paths}.",
    hint="Clip the gradients, or the step before dx.decoupled_decay.",
)

# Each problem, and whether a leaf has it. `_about` fills in the {names}.
CHECKS: dict[Finding, Callable[[Evidence], bool]] = {
    NOT_FINITE_WEIGHTS._replace(
        hint="Check the learning rate, and divisions by 0.",
    ): lambda e: bool(e.not_finite) and "float" not in e.not_finite,
    NOT_FINITE_WEIGHTS._replace(
        hint="An eps of 1e-8 is 0 in float16. Pass a larger eps, or wrap the optimizer "
        "in dx.with_compensation, which computes in float32.",
    ): lambda e: "float16" in e.not_finite,
    NOT_FINITE_WEIGHTS._replace(
        hint="Train weights in float32 or bfloat16, and cast them for the forward "
        "pass.",
    ): lambda e: "float8" in e.not_finite or "float4" in e.not_finite,
    Finding(
        kind=GROWTH,
        serious=True,
        text="the weights of {paths} grow by a fraction of {rates} per step. The decay "
        "has the wrong sign.",
        hint="After the learning rate, updates are negative. Use dx.independent_decay "
        "there, or place the decay before the learning rate.",
    ): lambda e: e.leaf.mode == GROWTH and e.leaf.rate < 0.0,
    Finding(
        kind=GROWTH,
        serious=True,
        text="some weights of {paths} grow, and others decay. The rates of single "
        "weights are {spread}.",
        hint="Multipliers of a weight decay must be >= 0: check where the decay gets "
        "its sign.",
    ): lambda e: e.leaf.mode == GROWTH and not e.leaf.rate < 0.0,
    Finding(
        kind="rate of 1 or more",
        serious=True,
        text="the rate of {paths} is {rates} per step. A rate of 1 sets the weights to "
        "0 in every step; a larger rate flips their sign.",
        hint="Pass a smaller weight_decay. If it should be multiplied by the learning "
        "rate, place the decay before the learning rate.",
    ): lambda e: e.leaf.rate >= 1.0,
    DEPENDS_ON_GRADIENTS._replace(
        hint="An L2 term passes through the preconditioner. For the same rate in all "
        "weights, place dx.decoupled_decay after the preconditioner, as dx.adamw and "
        "dx.rmspropw do.",
    ): lambda e: e.leaf.mode == GRADIENT_DEPENDENT and e.cause == causes.PRECONDITIONER,
    DEPENDS_ON_GRADIENTS._replace(
        hint="A clip or a normalization divides the decay by a norm of the "
        "gradients. Place dx.decoupled_decay after it.",
    ): lambda e: e.leaf.mode == GRADIENT_DEPENDENT and e.cause == causes.NORM,
    DEPENDS_ON_GRADIENTS._replace(
        hint="The strength follows the size of the gradients or of the step, as in "
        "dx.target_norm_decay, dx.radial_brake and dx.constrain_norm. For a rate that "
        "does not, use dx.decoupled_decay.",
    ): lambda e: e.leaf.mode == GRADIENT_DEPENDENT and e.cause == causes.RISING,
    DEPENDS_ON_GRADIENTS._replace(
        hint="A clip of single elements, or another gate, stops the decay of some "
        "weights. Place dx.decoupled_decay after it.",
    ): lambda e: e.leaf.mode == GRADIENT_DEPENDENT and e.cause == causes.GATE,
    DEPENDS_ON_GRADIENTS._replace(
        hint="The decay passes through an operation that depends on the gradients. "
        "Place dx.decoupled_decay after this operation.",
    ): lambda e: e.leaf.mode == GRADIENT_DEPENDENT and e.cause == causes.OTHER,
    CLIPPED._replace(serious=True): lambda e: e.clipped_to < 0.5,
    CLIPPED: lambda e: 0.5 <= e.clipped_to < 0.9,
    LOST_IN_ROUNDING._replace(
        hint="A weight times 1 - rate rounds back to the same weight. Wrap the "
        "optimizer in dx.with_compensation or dx.with_stochastic_rounding.",
    ): lambda e: _lost(e.leaf) and "float16" in e.leaf.dtype,
    LOST_IN_ROUNDING._replace(
        hint="A weight times 1 - rate rounds back to the same weight. Train weights in "
        "float32 or bfloat16, and cast them to {dtypes} for the forward pass.",
    ): lambda e: _lost(e.leaf) and "float16" not in e.leaf.dtype,
    Finding(
        kind="rounding not measured",
        serious=False,
        text="how much of the decay of {paths} survives rounding to {dtypes} is not "
        "known: {steps} steps show too little of it, or the weights are in the state.",
        hint="Try more steps, such as steps={more_steps}.",
    ): lambda e: rounding_is_unknown(e.leaf),
    Finding(
        kind="decay without gradient",
        serious=True,
        text="these parameters get no gradient, but decay: {paths}.",
        hint="If they are frozen, exclude them with False in mask=, or place the "
        "freeze after the decay.",
    ): lambda e: not e.leaf.depends_on_gradient and decays(e.leaf),
    Finding(
        kind=GATED,
        serious=False,
        text="in one step, some weights of {paths} decay and others do not; the "
        "gradients decide. The mean rate is {rates}.",
        hint="Cautious weight decay works like this.",
    ): lambda e: e.leaf.mode == GATED and e.cause == causes.GATE,
    Finding(
        kind=GATED,
        serious=False,
        text="in one step, some weights of {paths} decay and others do not. The choice "
        "changes from step to step. The mean rate is {rates}.",
        hint="A random or a rotating mask works like this.",
    ): lambda e: e.leaf.mode == GATED and e.cause == causes.OTHER,
    Finding(
        kind=GATED,
        serious=False,
        text="in {paths}, weights without a gradient decay less than those with one. "
        "The rates are {spread}.",
        hint="A lazy update skips weights without a gradient. If all weights should "
        "decay, apply the decay to the whole parameter.",
    ): lambda e: e.leaf.mode == GATED and e.cause == causes.ZERO_GRADIENT,
    Finding(
        kind=GATED,
        serious=False,
        text="in {paths}, weights without a gradient decay more than those with one. "
        "The rates are {spread}.",
        hint="Check the condition that skips weights with a gradient.",
    ): lambda e: e.leaf.mode == GATED and e.cause == causes.ONLY_ZERO_GRADIENT,
    Finding(
        kind=ANCHORED,
        serious=False,
        text="the optimizer pulls {paths} at a rate of {rates} to weights, or to a "
        "norm, that the state keeps, such as the initial weights or their average.",
        hint="It does not pull to 0. dx.decay_to_init and dx.norm_control work like "
        "this.",
    ): lambda e: e.anchored,
    Finding(
        kind=UNEVEN,
        serious=False,
        text="single weights of {paths} have different rates, from {spread}.",
        hint="A mask of arrays works like this, or a decay that mixes weights, such as "
        "dx.spectral_decay.",
    ): lambda e: e.leaf.mode == UNEVEN,
    Finding(
        kind=CONSTRAINED,
        serious=False,
        text="a step moves {paths} to a set, such as a sphere, a box or the numbers "
        ">= 0. All or part of their size before the step is lost at once.",
        hint="This is a constraint. It has no decay rate.",
    ): lambda e: e.leaf.mode == CONSTRAINED,
    Finding(
        kind="biases or norms decay",
        serious=False,
        text="these biases or norm scales decay: {paths}.",
        hint="Pass mask=dx.masks.no_bias_or_norm, unless this is intended.",
    ): lambda e: e.leaf.role in ("bias", "norm_scale") and decays(e.leaf),
    DEPENDS_ON_SIZE._replace(
        hint="A clip or a normalization rescales the decay together with the step.",
    ): lambda e: _depends_on_scale(e, causes.NORM),
    DEPENDS_ON_SIZE._replace(
        hint="A trust ratio rescales the decay together with the update.",
    ): lambda e: _depends_on_scale(e, causes.TRUST_RATIO),
    Finding(
        kind=SCALE_DEPENDENT,
        serious=False,
        text="the decay rate of {paths} falls with the size of the weights.",
        hint="The pull does not grow with the weights, as in L1 or Huber decay.",
    ): lambda e: _depends_on_scale(e, causes.CONSTANT_PULL),
    Finding(
        kind=SCALE_DEPENDENT,
        serious=False,
        text="the decay rate of {paths} rises with the size of the weights.",
        hint="The pull grows faster than the weights, such as their third power. A "
        "pull that begins at a bound, as in dx.constrain_norm, works like this, too.",
    ): lambda e: _depends_on_scale(e, causes.STRONG_PULL),
    DEPENDS_ON_SIZE._replace(
        hint="The decay passes through an operation that depends on this size.",
    ): lambda e: _depends_on_scale(e, causes.OTHER),
    Finding(
        kind="rate still changes",
        serious=False,
        text="at the end of the measured steps, the rate of {paths} still changes: "
        "{ends}.",
        hint="Pass horizon=, the number of steps of the run, or at_steps=.",
    ): lambda e: e.still_changes,
    Finding(
        kind="not in every step",
        serious=False,
        text="{paths} decay in {share} of the steps only. The mean rate is {rates}.",
        hint="If this is not intended, check what skips the decay.",
    ): lambda e: decays(e.leaf) and e.share_of_steps < 1.0,
    Finding(
        kind="proportional steps",
        serious=False,
        text="the steps of {paths} are in proportion to the weights, as in "
        "exponentiated gradient descent.",
        hint="They change the size of the weights in both directions. This is not a "
        "decay.",
    ): lambda e: e.proportional,
}
