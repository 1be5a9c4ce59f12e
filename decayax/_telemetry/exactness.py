r"""Where the derivative of one update shows all of its decay.

D = dΔ(θ)[θ] is the decay that a step applies if the update is affine in the weights,

    Δ(θ) = −Mθ + c,        D = −Mθ

and if M has nothing to do with the gradients. The jaxpr shows both. M does not depend
on θ if the derivative dΔ(θ)[t], as a function of θ and t, depends on t only. So L1 and
trust ratios are not affine. M does not depend on the gradients if the derivative
depends neither on them nor on a state that has seen them. Steps in proportion to the
weights, −γ g|θ| or −γ gθ, fail one or the other.

Adafactor multiplies its step by the size of the weights. Such a step is odd in g, so
the mean of D over g and −g is the decay, if it is linear in θ: `even_part`.

The derivative holds the state fixed. So D also misses what passes through a state that
was made from the weights: L2 in a momentum, or an anchor that `init` copied.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.extend import core

from decayax._core.dtypes import is_inexact
from decayax._jaxpr.dataflow import (
    Dependency,
    ELEMENTWISE_INPUT,
    fixed_point,
    INDEPENDENT,
    Kind,
    propagate,
    subjaxprs,
)
from decayax._jaxpr.partition import combine, partition


Step = Callable[[Any, Any, Any], Any]  # (gradients, state, params) -> updates, state
Dependencies = list[Dependency]


class Exactness(NamedTuple):
    """What the jaxpr says about the decay of one update."""

    affine: bool  # the update is affine in the weights, and no state remembers them
    forgets: bool  # it depends on no state that remembers the weights
    gradient_free: bool  # M depends on no gradient, in no step


def exactness(
    init: Callable[[Any], Any],
    step: Step,
    grads: optax.Updates,
    state: optax.OptState,
    params: optax.Params,
) -> tuple[list[Exactness], list[bool]]:
    """The exactness of each update, and which arrays of the state have seen gradients.

    No update is affine if the step has no derivative.
    """
    program, (updates, _) = jax.make_jaxpr(step, return_shape=True)(
        grads, state, params
    )
    count, count_state = len(jax.tree.leaves(updates)), len(jax.tree.leaves(state))
    if not _has_jvp(program.jaxpr):  # jax.custom_vjp: jax.jvp would raise
        return [Exactness(False, False, False)] * count, [False] * count_state
    still = (_all(INDEPENDENT, grads), _all(INDEPENDENT, params))
    data = (_all(ELEMENTWISE_INPUT, grads), _all(ELEMENTWISE_INPUT, params))
    fixed_state = [INDEPENDENT] * count_state

    at_init = propagate(jax.make_jaxpr(init)(params).jaxpr, data[1])
    from_params = _run(program, still[0], data[1], _seen(at_init), count)
    state_of_params = _seen(from_params[count:])
    memories = propagate(program.jaxpr, [*still[0], *state_of_params, *still[1]])
    from_grads = _run(program, data[0], still[1], fixed_state, count)[count:]

    theta = partition(params).inexact
    tangents = _all(INDEPENDENT, theta)
    derivative = jax.make_jaxpr(_derivative(step))(grads, state, params, theta).jaxpr
    by_params = propagate(derivative, [*still[0], *fixed_state, *data[1], *tangents])
    by_grads = propagate(derivative, [*data[0], *from_grads, *still[1], *tangents])
    columns = zip(
        from_params[:count], memories[:count], by_params, by_grads, strict=True
    )
    exact = [
        Exactness(
            affine=not update.nondifferentiable and by_param.kind == Kind.CONSTANT,
            forgets=not memory.nondifferentiable,
            gradient_free=by_grad.kind == Kind.CONSTANT,
        )
        for update, memory, by_param, by_grad in columns
    ]
    return exact, [dep.kind != Kind.CONSTANT for dep in from_grads]


def _all(dependency: Dependency, tree: Any) -> Dependencies:
    return [dependency] * len(jax.tree.leaves(tree))


def _run(
    program: core.ClosedJaxpr,
    grads: Dependencies,
    params: Dependencies,
    state: Dependencies,
    count: int,
) -> Dependencies:
    """The dependencies of updates and state after any number of steps.

    A state that has seen the params is fixed in the next step, but nondifferentiable:
    the derivative does not show what it remembers. That of gradients stays data.
    """
    by_params = any(dep.kind != Kind.CONSTANT for dep in params)

    def outputs(state: Dependencies) -> Dependencies:
        return propagate(program.jaxpr, [*grads, *state, *params])

    def next_state(state: Dependencies) -> Dependencies:
        new = outputs(state)[count:]
        return _seen(new) if by_params else new

    return outputs(fixed_point(next_state, state))


def _seen(state: Dependencies) -> Dependencies:
    return [
        Dependency(Kind.CONSTANT, dep.nondifferentiable or dep.kind != Kind.CONSTANT)
        for dep in state
    ]


def _derivative(step: Step) -> Callable[..., list[Any]]:
    """The function (gradients, state, params, tangents) -> dΔ(θ)[tangents]."""

    def derivative(
        grads: Any, state: Any, params: Any, tangents: list[jax.Array]
    ) -> list[Any]:
        updates, decay = decay_part(step, grads, state, params, tangents)
        pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(decay), strict=True)
        # An integer update has a tangent of dtype float0, which jaxprs do not return.
        return [d if is_inexact(u) else 0.0 for u, d in pairs]

    return derivative


def decay_part(
    step: Step, grads: Any, state: Any, params: Any, tangents: list[jax.Array]
) -> tuple[Any, Any]:
    """The updates of a step, and their derivative in a direction of the params."""
    theta, static = partition(params)

    def updates_of(theta: list[jax.Array]) -> optax.Updates:
        return step(grads, state, combine(params, theta, static))[0]

    return jax.jvp(updates_of, (theta,), (tangents,))


def even_part(
    step: Step, grads: Any, state: Any, params: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The means of Δ and of D over g and −g, for all updates."""
    theta = partition(params).inexact
    opposite = jax.tree.map(lambda g: -g if is_inexact(g) else g, grads)
    both = [decay_part(step, g, state, params, theta) for g in (grads, opposite)]
    with_g, with_opposite = [tuple(map(jax.tree.leaves, pair)) for pair in both]
    updates, decays = (
        [0.5 * (a + b) if is_inexact(a) else a for a, b in zip(*pair, strict=True)]
        for pair in zip(with_g, with_opposite, strict=True)
    )
    return updates, decays


def _has_jvp(jaxpr: core.Jaxpr) -> bool:
    """Whether no part of a program defines its derivative by ``jax.custom_vjp``."""
    return all(
        not eqn.primitive.name.startswith("custom_vjp_call")
        and all(map(_has_jvp, subjaxprs(eqn)))
        for eqn in jaxpr.eqns
    )
