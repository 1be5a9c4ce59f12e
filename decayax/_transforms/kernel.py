"""The kernel: every decay is a pull or a projection, and this is where it is built.

    pull        update ← update ± rate·gate(u, d)·d,  d = direction(θ, memory)
    projection  update ← rule(θ, update, ...): θ + update lands on a set

The sign is the place in the chain: + before the learning rate, where the update is the
direction u to be subtracted, and − behind it, where it is the finished step Δ. A gate
always sees u. The rate is strength·multiplier of the mask. A memory is what a decay
keeps of each parameter: an anchor, an average, a norm, a dual variable.

A method supplies these functions of one leaf. The kernel checks, casts, masks, counts.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from decayax._core.dtypes import as_dtype, cast_like, compute_dtype, to_float32
from decayax._core.parameters import require_no_state
from decayax._core.paths import leaves_with_path, Path, path_str
from decayax._core.strength import is_zero, ScalarOrSchedule, Strength
from decayax._transforms.geometry import ArrayLeaf, times_real
from decayax._transforms.memory import (
    AVERAGE,
    INITIAL,
    memory_by_path,
    memory_trees,
    Remember,
    remembered,
)
from decayax._transforms.precision import cast_around
from decayax._transforms.strengths import (
    decay_rate,
    rate_by_path,
    RateAt,
    require_parts,
    whole_rule,
)
from decayax._transforms.trees import (
    increment,
    map_leaves,
    require_inexact,
    require_params,
    require_state,
)
from decayax.masks._mask import resolve_nonzero_mask
from decayax.masks._resolve import MaskOrFn


Rate: TypeAlias = Float[Array, "*#shape"]  # 0-d, or it broadcasts against the leaf


class DecayState(NamedTuple):
    """State of every decay; it does not depend on the type of strength or mask."""

    step: jax.Array  # int32[]: updates so far; a schedule reads it, then it advances


class DecayMemoryState(NamedTuple):
    """State of a decay that keeps something of each parameter."""

    step: jax.Array  # int32[]: updates so far
    memory: dict[str, Any]  # name -> a tree like the params; MaskedNode where excluded


class Leaf(NamedTuple):
    """What a rule reads of one parameter: arrays of one dtype, float32 or wider."""

    path: Path
    update: ArrayLeaf  # u before the learning rate, Δ behind it
    param: ArrayLeaf  # θ
    rate: Rate  # strength·multiplier
    grad: ArrayLeaf  # what entered the wrapped optimizer; the update if none is wrapped
    memory: Mapping[str, jax.Array]
    extra: Any  # this leaf of what `whole` returned; None without it
    step: jax.Array  # int32[]: updates before this one

    @property
    def landed(self) -> ArrayLeaf:
        """θ + Δ, behind the learning rate: what a projection changes."""
        return self.param + self.update


Rule: TypeAlias = Callable[[Leaf], ArrayLeaf]  # -> the new update
Gate: TypeAlias = Callable[[ArrayLeaf, ArrayLeaf], jax.Array]  # (u, direction) -> bool


class Method(NamedTuple):
    """A decay as functions of one leaf."""

    name: str  # its public name, for errors
    rate_at: RateAt
    mask: MaskOrFn  # which parameters, and how much of the strength each
    rule: Rule
    # name -> (path, parameter at init) -> what the state keeps of the parameter
    remember: Remember = {}
    # leaf -> the new memory, or a part of it; the rule reads the new one
    refresh: Callable[[Leaf], Mapping[str, jax.Array]] | None = None
    # (params, extra arguments of the update) -> a tree like the params: `Leaf.extra`
    whole: Callable[[optax.Params, Mapping[str, Any]], Any] | None = None
    # (update, step) -> update of a leaf that the mask excludes; None: it passes
    excluded: Callable[[Any, jax.Array], Any] | None = None


def pull(
    name: str,
    weight_decay: ScalarOrSchedule,
    mask: MaskOrFn,
    *,
    learning_rate: ScalarOrSchedule | None = None,
    direction: Callable[[Leaf], ArrayLeaf] = lambda leaf: leaf.param,
    gate: Gate | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """The transform ``update ← update ± rate·gate(u, d)·d``, ``d = direction(leaf)``.

    Without a learning rate it stands before it, and the sign is +. With one it stands
    behind it, the rate is γ_tλ_t, and the sign is −. The options are those of `Method`.
    """
    rate_at = decay_rate(name, weight_decay, learning_rate)
    rule = pull_rule(direction, gate, behind=learning_rate is not None)
    return transform(Method(name, rate_at, mask, rule, **options))


def pull_rule(
    direction: Callable[[Leaf], ArrayLeaf], gate: Gate | None, behind: bool
) -> Rule:
    """The rule of a pull, before the learning rate or behind it."""

    def rule(leaf: Leaf) -> ArrayLeaf:
        d = direction(leaf)
        pulled = times_real(leaf.rate, d)
        if gate is not None:
            u = -leaf.update if behind else leaf.update
            pulled = jnp.where(gate(u, d), pulled, jnp.zeros_like(pulled))
        return leaf.update - pulled if behind else leaf.update + pulled

    return rule


def transform(method: Method) -> optax.GradientTransformationExtraArgs:
    """The method as a transform."""

    # In this library `update` has the types of optax's TransformUpdateExtraArgsFn.
    def update(updates, state, params=None, **extra_args):
        return _step(method, updates, updates, state, params, extra_args)

    return optax.GradientTransformationExtraArgs(partial(_init, method), update)


def around(
    method: Method, optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """The method behind an optimizer; its rule reads the gradient of the optimizer."""
    name = method.name
    inner = cast_around(name, optimizer, widen_params=True, restore_updates=False)

    def init(params: optax.Params) -> Any:
        return inner.init(params), _init(method, params)

    def update(updates, state, params=None, **extra_args):
        params = require_params(name, params)
        grads, (inner_state, own_state) = updates, state
        updates, inner_state = inner.update(grads, inner_state, params, **extra_args)
        updates, own_state = _step(
            method, updates, grads, own_state, params, extra_args
        )
        return updates, (inner_state, own_state)

    return cast_around(name, optax.GradientTransformationExtraArgs(init, update))


def _init(method: Method, params: optax.Params) -> DecayState | DecayMemoryState:
    # A wrong mask or parameter raises here, before training.
    require_no_state(method.name, params)
    rates = rate_by_path(method.name, method.rate_at(None), method.mask, params)
    if method.rate_at is whole_rule:
        require_parts(method.name, rates)
    step = jnp.zeros([], jnp.int32)
    if not method.remember:
        return DecayState(step)
    multipliers = resolve_nonzero_mask(method.name, method.mask, params)
    selected = {path for path, x in multipliers.items() if not is_zero(x)}
    return DecayMemoryState(step, remembered(method.remember, selected, params))


def _step(method, updates, grads, state, params, extra_args):
    """The new updates and state of a method."""
    name = method.name
    params = require_params(name, params)
    has_memory = bool(method.remember)
    require_state(name, state, DecayMemoryState if has_memory else DecayState)
    rates = rate_by_path(name, method.rate_at(state.step), method.mask, params)
    memory = memory_by_path(state.memory) if has_memory else {}
    whole = method.whole(params, extra_args) if method.whole else {}
    extras = dict(leaves_with_path(whole))
    grad_at = {} if grads is updates else dict(leaves_with_path(grads))
    in_dtype = _rate_arrays()

    def unpulled(update: Any) -> Any:  # rate 0 is the identity, to the bit
        return method.excluded(update, state.step) if method.excluded else update

    def apply(path: Path, update: Any, param: Any) -> Any:
        if path not in rates and path not in memory:
            return unpulled(update)
        _require_pair(name, path, update, param)
        _require_memory(method, path, memory, np.shape(param))
        dtype = compute_dtype(update, param)
        leaf = Leaf(
            path=path,
            update=as_dtype(update, dtype),
            param=as_dtype(param, dtype),
            rate=in_dtype(rates.get(path, 0.0), dtype),
            grad=as_dtype(grad_at.get(path, update), dtype),
            memory={k: to_float32(x) for k, x in memory.get(path, {}).items()},
            extra=extras.get(path),
            step=state.step,
        )
        if method.refresh:
            leaf = _refreshed(method.refresh, leaf, memory[path])
        return (
            cast_like(method.rule(leaf), update) if path in rates else unpulled(update)
        )

    updates = map_leaves(name, apply, updates, params)
    step = increment(state.step)
    if not has_memory:
        return updates, DecayState(step)
    return updates, DecayMemoryState(step, memory_trees(memory, like=state.memory))


def _refreshed(
    refresh: Callable[[Leaf], Mapping[str, jax.Array]],
    leaf: Leaf,
    held: dict[str, jax.Array],
) -> Leaf:
    """The leaf with its new memory, which is also written to what the state holds."""
    fresh = refresh(leaf)
    held |= {key: cast_like(x, held[key]) for key, x in fresh.items()}
    return leaf._replace(memory={**leaf.memory, **fresh})


def _rate_arrays() -> Callable[[Strength, Any], Rate]:
    """(rate, dtype) -> a real array. Most leaves share one: it is converted once."""
    arrays: dict[Any, Rate] = {}

    def in_dtype(rate: Strength, dtype: Any) -> Rate:
        key = id(rate), dtype
        if key not in arrays:
            arrays[key] = jnp.asarray(rate, jnp.finfo(dtype).dtype)
        return arrays[key]

    return in_dtype


def _require_pair(name: str, path: Path, update: Any, param: Any) -> None:
    """Raise unless the update can hold the decay of its parameter."""
    require_inexact(name, "update", path, update)
    if jnp.iscomplexobj(param) and not jnp.iscomplexobj(update):
        raise TypeError(
            f"{name}: the update {path_str(path)} is real, but its parameter is "
            "complex. Pass the gradients of these same parameters."
        )


def _require_memory(
    method: Method, path: Path, memory: Mapping[Path, Any], shape: tuple[int, ...]
) -> None:
    """Raise if the state does not know a parameter, or knows another one."""
    for key, x in memory.get(path, {}).items():
        if key in (INITIAL, AVERAGE) and x.shape != shape:
            raise ValueError(
                f"{method.name}: the state's copy of {path_str(path)} has shape "
                f"{x.shape}, the parameter {shape}. Call init with these parameters."
            )
    if method.remember and path not in memory:
        raise ValueError(
            f"{method.name}: the state keeps nothing of {path_str(path)}, which the "
            "mask selects: at init it excluded this parameter. Call init with these "
            "parameters and this mask."
        )
