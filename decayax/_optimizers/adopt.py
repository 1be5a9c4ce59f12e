"""Move a running job to another optimizer: its moments and counters come along.

Moments are matched by state class, field and parameter, whatever wrappers surround
them. Counters are matched in the same way; a counter without a counterpart continues
at the step that the old state has reached.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._core.dtypes import dtype_of
from decayax._core.paths import Path, path_str, summarize_paths
from decayax._core.strength import is_concrete
from decayax._optimizers.slots import Slot, slots_of
from decayax._transforms.trees import require_optimizer


NAME = "adopt_state"

# States of optax and of decayax that hold the same numbers.
SAME_STATE = (
    {"ScaleByRmsState", "ScaleByRmsWithCountState"},
    {"ScaleByRStdDevState", "ScaleByRStdDevWithCountState"},
    {"ScaleByScheduleState", "LearningRateState"},
    {"WeightDecaySchedule", "DecayState", "DecayMemoryState"},
)
# The fields of such a state where a checkpoint does not name its class.
SAME_FIELDS = {
    "ScaleByRmsState": ({"nu"}, {"count", "nu"}),
    "ScaleByRmsWithCountState": ({"nu"}, {"count", "nu"}),
    "LearningRateState": ({"step"}, {"count"}),
    "ScaleByScheduleState": ({"step"}, {"count"}),
}
STEPS = ("count", "step", "step_count", "gradient_step")
# Carried over if both states have them; otherwise they start as in `init`.
OPTIONAL = ("residual", "rounded", "sums")


def adopt_state(
    optimizer: optax.GradientTransformation,
    params: optax.Params,
    old_state: optax.OptState,
) -> optax.OptState:
    r"""Move the state of a running job to another optimizer.

    The result is ``optimizer.init(params)`` with the moments and counters of the old
    state. It works from Optax to decayax and back, and into and out of wrappers:
    :func:`with_compensation`, :func:`with_stochastic_rounding`,
    :func:`with_state_dtype`, :func:`track_decay`, :func:`with_decay`,
    ``optax.partition``, ``masked``, ``MultiSteps``, ``inject_hyperparams``,
    ``apply_if_finite``, and chains.

    Moments are matched by state class, field and parameter, and cast to the new dtype
    (float32 to bfloat16: round-to-nearest). A counter continues where its counterpart
    is. **A new counter without a counterpart starts at the largest step count of the
    old state**, below the same ``MultiSteps`` or ``apply_if_finite`` if there is one,
    so schedules do not restart. If the old state counts no steps (``optax.sgd`` with a
    constant learning rate), the counters start at 0;
    ``optax.tree.set(state, step=jnp.int32(1000))`` sets them.

    Hyper-parameters (``inject_hyperparams``) and random keys are those of the new
    optimizer. Residuals of a rounding wrapper, measurements of :func:`track_decay` and
    counters without a place in the new state are dropped.

    The memory of a decay (anchors, averages, norms, dual variables) is carried over if
    the new optimizer keeps the same arrays, in the same shapes. Otherwise it starts as
    in ``init``: :func:`decay_to_init` then decays to the given ``params``. An anchor or
    a bound that is carried over wins over the argument of the new optimizer.

    Args:
        optimizer: the new optimizer.
        params: the parameters of the job, as for ``optimizer.init``.
        old_state: the whole state of the old optimizer; also as restored from a
            checkpoint, in NumPy arrays or in plain dicts and lists. These do not name
            the state classes: two classes with the same fields look alike there.

    Returns:
        A state of ``optimizer``. It shares the arrays of moments that need no cast with
        ``old_state``: do not donate both.

    Raises:
        ValueError: a moment of one state has no counterpart in the other, or another
            shape. The error lists them. (The momentum of ``optax.rmsprop`` contains the
            learning rate and does not fit :func:`rmspropw`.)

    Example:
        >>> import decayax as dx, jax.numpy as jnp, optax
        >>> params, old = jnp.ones(2, jnp.bfloat16), optax.adamw(1e-3)
        >>> _, old_state = old.update(params, old.init(params), params)
        >>> optimizer = dx.with_compensation(dx.adamw(1e-3))
        >>> state = dx.adopt_state(optimizer, params, old_state)
        >>> print(state[0][0].count, state[0][0].mu.dtype, state[0][2])
        1 float32 LearningRateState(step=Array(1, dtype=int32))
    """
    require_optimizer(NAME, optimizer)
    fresh = optimizer.init(params)
    old, new = slots_of(old_state, params), slots_of(fresh, params)
    steps = _counters(
        [slot for slot in old if _is_step(slot)],
        [slot for slot in new if _is_step(slot)],
    )
    moments = _moments(
        [slot for slot in old if _is_carried(slot)],
        [slot for slot in new if _is_carried(slot)],
    )
    carried = steps | moments
    leaves = [carried.get(slot.place, slot.value) for slot in new]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _is_step(slot: Slot) -> bool:
    return slot.field in STEPS and _is_counter(slot)


def _is_counter(slot: Slot) -> bool:
    dtype = dtype_of(slot.value)
    return np.shape(slot.value) == () and jnp.issubdtype(dtype, jnp.integer)


def _is_carried(slot: Slot) -> bool:
    """Whether it is taken from the old state; hyper-parameters and keys are not."""
    is_hyperparam = "hyperparams" in slot.place[:-1]
    is_key = slot.field == "key" and "step" in slot.owner.fields
    return not (is_hyperparam or is_key or _is_step(slot))


def _is_empty(slot: Slot) -> bool:
    """Whether it is the accumulator of a MultiSteps that has just emitted a step."""
    is_known = slot.field == "acc_grads" and is_concrete(slot.value)
    return is_known and not np.any(slot.value)


def _is_required(slot: Slot) -> bool:
    """Whether its loss would change the training: moments, and not flags."""
    is_flag = _is_counter(slot) or dtype_of(slot.value) == jnp.bool_
    return not (is_flag or _is_memory(slot) or slot.field in OPTIONAL)


def _is_memory(slot: Slot) -> bool:
    """Whether it is what a decay keeps of a parameter: an anchor, a norm, a dual."""
    above_parameter = slot.place[: len(slot.place) - len(slot.path)]
    return above_parameter[-2:-1] == ("memory",)


def _counters(old: list[Slot], new: list[Slot]) -> dict[Path, jax.Array]:
    """The counters of the new state by place."""
    matches, _ = _match(old, new, key=lambda slot: slot.scope)
    steps = {}
    for slot, match in zip(new, matches, strict=True):
        inside = [x for x in old if x.scope == slot.scope]
        values = [x.value for x in ([match] if match else inside or old)]
        if values:
            step = functools.reduce(jnp.maximum, values)
            # A copy: a step that donates its state must not get one array twice.
            steps[slot.place] = jnp.array(step, slot.value.dtype)
    return steps


def _moments(old: list[Slot], new: list[Slot]) -> dict[Path, Any]:
    """The other arrays of the new state by place; raise if a moment does not fit."""
    matches, unused = _match(old, new, key=lambda slot: (slot.field, slot.path))
    moments, missing = {}, []
    for slot, match in zip(new, matches, strict=True):
        if match is None:
            # A MultiSteps that starts now has accumulated nothing yet.
            if _is_required(slot) and slot.field != "acc_grads":
                missing.append(slot)
        elif _is_required(slot):
            _require_same_numbers(match, slot)
            moments[slot.place] = _cast(match.value, slot.value)
        elif _describe(match) == _describe(slot) or _is_same_memory(match, slot):
            moments[slot.place] = _cast(match.value, slot.value)
    lost = [slot for slot in unused if _is_required(slot) and not _is_empty(slot)]
    _require_all_matched(lost, missing)
    return moments


def _match(
    old: list[Slot], new: list[Slot], key: Callable[[Slot], Any]
) -> tuple[list[Slot | None], list[Slot]]:
    """The old slot for each new one, in order, and the old ones without a new one."""
    waiting = collections.defaultdict(list)
    for slot in old:
        waiting[key(slot)].append(slot)
    matches = []
    for slot in new:
        candidates = waiting[key(slot)]
        fitting = [n for n, x in enumerate(candidates) if _is_same_stage(x, slot)]
        matches.append(candidates.pop(fitting[0]) if fitting else None)
    return matches, [slot for slots in waiting.values() for slot in slots]


def _is_same_stage(old: Slot, new: Slot) -> bool:
    """Whether both belong to states that hold the same numbers."""
    # optax.rmsprop traces its finished steps, in the last stage of its chain; the
    # other optimizers trace directions, before the learning rate.
    if old.field == "trace" and old.is_last != new.is_last:
        return False
    names = {old.owner.name, new.owner.name}
    if "" not in names:
        return len(names) == 1 or any(names <= same for same in SAME_STATE)
    same_fields = SAME_FIELDS.get(new.owner.name or old.owner.name, ())
    return old.owner.fields in (new.owner.fields, *same_fields)


def _cast(value: Any, like: Any) -> Any:
    """The old value with the new dtype, and on the new devices if it has none."""
    is_on_devices = isinstance(value, jax.Array)
    if jnp.issubdtype(dtype_of(like), jnp.number):
        value = jnp.asarray(value, like.dtype)
    is_placed = isinstance(like, jax.Array) and is_concrete(like)
    if is_placed and not is_on_devices:
        return jax.device_put(value, like.sharding)
    return value


def _require_same_numbers(old: Slot, new: Slot) -> None:
    """Raise if the shapes differ, or a complex moment would become real."""
    if not _is_castable(old, new):
        raise ValueError(
            f"{NAME}: the old state has {_describe(old)} at {path_str(old.place)}, the "
            f"new optimizer needs {_describe(new)} at {path_str(new.place)}. Pass the "
            "parameters that the old state belongs to."
        )


def _is_same_memory(old: Slot, new: Slot) -> bool:
    return _is_memory(new) and _is_castable(old, new)


def _is_castable(old: Slot, new: Slot) -> bool:
    is_narrowed = jnp.iscomplexobj(old.value) and not jnp.iscomplexobj(new.value)
    return np.shape(old.value) == np.shape(new.value) and not is_narrowed


def _require_all_matched(unplaced: list[Slot], missing: list[Slot]) -> None:
    """Raise if a moment of one state has no counterpart in the other."""
    if not unplaced and not missing:
        return
    lines = [
        f"{whose} state has no place for {_list(slots)}"
        for whose, slots in (("the new", unplaced), ("the old", missing))
        if slots
    ]
    text = "; ".join(lines)
    if any(slot.field == "trace" for slot in unplaced):
        text += (
            " (the momentum of optax.rmsprop contains the learning rate, that of "
            "other optimizers does not)"
        )
    if any(slot.field == "acc_grads" for slot in unplaced):
        text += (
            " (a MultiSteps has accumulated gradients: move the state after an update "
            "that it has applied)"
        )
    raise ValueError(
        f"{NAME}: the states do not fit: {text}. Pass an optimizer with the same "
        "moments, the whole old state, and the parameters that it belongs to."
    )


def _list(slots: list[Slot]) -> str:
    return summarize_paths(f"{path_str(x.place)} ({_whole(x)})" for x in slots)


def _whole(slot: Slot) -> str:
    owner = slot.owner.name
    return f"{_describe(slot)} of {owner}" if owner else _describe(slot)


def _describe(slot: Slot) -> str:
    return f"{dtype_of(slot.value)}{list(np.shape(slot.value))}"
