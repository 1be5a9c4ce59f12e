"""Constants that are built from the shape of a leaf: a ramp, a mask of the last rows.

Compare the programs of an optimizer for leaves of two sizes. A value is

    VARIED  if it is a constant array whose elements differ, but its shape is not cut
    DATA    if it depends on the inputs of the program
    SHAPED  if it depends on the size of a leaf in another way than by its own shape

The updates of an optimizer with a SHAPED value differ between a leaf and a part of it.
A constant array with equal elements is never SHAPED, and neither is random noise.
"""

import enum
import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from decayax._jaxpr.dataflow import (
    CALLS,
    closed_subjaxprs,
    ELEMENTWISE,
    is_scalar,
    REORDERING,
    shape_of,
)


class Mark(enum.IntFlag):
    """What a value is; the mark of several values is the union."""

    PLAIN = 0
    VARIED = 1
    DATA = 2
    SHAPED = 4


# Primitives that make an array with equal elements of arrays with equal elements.
KEEPING_EQUAL = (
    ELEMENTWISE
    | REORDERING
    | frozenset(
        """
        bitcast_convert_type broadcast_in_dim dynamic_slice gather slice split
        """.split()  # noqa: SIM905
    )
)
# Beginnings of the names of primitives that have a place or a size as a parameter.
PLACING = ("concatenate", "dynamic_", "gather", "pad", "scatter", "slice", "split")
# Their outputs are noise: a part of it is like the whole.
RANDOM = frozenset(
    """
    random_bits random_fold_in random_gamma random_seed random_split random_unwrap
    random_wrap rng_bit_generator rng_uniform threefry2x32
    """.split()  # noqa: SIM905
)


def is_shaped(first: core.ClosedJaxpr, second: core.ClosedJaxpr) -> bool:
    """Whether an output is made with a constant that depends on the size of a leaf.

    The programs run the same operations on leaves of different sizes.
    """
    outputs = _marks(first, second, [Mark.DATA] * len(first.jaxpr.invars))
    return any(Mark.SHAPED in mark for mark in outputs)


def _marks(
    first: core.ClosedJaxpr, second: core.ClosedJaxpr, inputs: Sequence[Mark]
) -> list[Mark]:
    """The marks of the outputs of two programs, which are walked side by side."""
    jaxpr = first.jaxpr
    known = dict(
        zip(jaxpr.constvars, map(_mark_of_constant, first.consts), strict=True)
    )
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Mark:
        is_literal = isinstance(atom, core.Literal)
        return _mark_of_constant(atom.val) if is_literal else known[atom]

    for eqn, other in zip(jaxpr.eqns, second.jaxpr.eqns, strict=True):
        outputs = _marks_of_eqn(eqn, other, [read(atom) for atom in eqn.invars])
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _mark_of_constant(value: Any) -> Mark:
    return Mark.PLAIN if np.size(value) == 1 else Mark.VARIED


def _marks_of_eqn(
    eqn: core.JaxprEqn, other: core.JaxprEqn, inputs: list[Mark]
) -> list[Mark]:
    name, joined = eqn.primitive.name, _join(inputs)
    if name in RANDOM:
        return [joined & Mark.DATA] * len(eqn.outvars)
    bodies = list(zip(closed_subjaxprs(eqn), closed_subjaxprs(other), strict=True))
    if name in CALLS and len(bodies) == 1:
        return _marks(*bodies[0], inputs)
    if name == "cond":
        branches = [_marks(a, b, inputs[1:]) for a, b in bodies]
        return [_join([inputs[0], *x]) for x in zip(*branches, strict=True)]
    if name == "scan":
        return _marks_of_scan(eqn, other, inputs)
    if name == "while":
        return _marks_of_while(eqn, other, inputs)
    is_cut = any(
        shape_of(a) != shape_of(b)
        for a, b in zip(
            [*eqn.invars, *eqn.outvars], [*other.invars, *other.outvars], strict=True
        )
    )
    return [_mark_of_output(name, joined, is_cut, out) for out in eqn.outvars]


def _mark_of_output(name: str, joined: Mark, is_cut: bool, out: Any) -> Mark:
    """The mark of an output; ``is_cut`` says whether the operation has two sizes."""
    if Mark.DATA in joined:
        is_placed = is_cut and name.startswith(PLACING) and not is_scalar(out)
        mark = joined & ~Mark.VARIED  # a constant table of data: it has the same shape
        return mark | Mark.SHAPED if is_placed else mark
    varied = Mark.VARIED in joined or name not in KEEPING_EQUAL
    if varied and is_cut:
        return joined | Mark.SHAPED
    is_varied = varied and not is_scalar(out)
    return joined | Mark.VARIED if is_varied else joined & ~Mark.VARIED


def _marks_of_scan(
    eqn: core.JaxprEqn, other: core.JaxprEqn, inputs: list[Mark]
) -> list[Mark]:
    bodies = eqn.params["jaxpr"], other.params["jaxpr"]
    num_consts, num_carry = eqn.params["num_consts"], eqn.params["num_carry"]
    end = num_consts + num_carry
    consts, carry, xs = inputs[:num_consts], inputs[num_consts:end], inputs[end:]
    while True:
        outputs = _marks(*bodies, [*consts, *carry, *xs])
        new = [a | b for a, b in zip(carry, outputs, strict=False)]
        if new == carry:
            return [*carry, *outputs[num_carry:]]
        carry = new


def _marks_of_while(
    eqn: core.JaxprEqn, other: core.JaxprEqn, inputs: list[Mark]
) -> list[Mark]:
    cond_n, body_n = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond_consts, body_consts = inputs[:cond_n], inputs[cond_n : cond_n + body_n]
    carry = inputs[cond_n + body_n :]
    test, body = (
        (eqn.params[name], other.params[name]) for name in ("cond_jaxpr", "body_jaxpr")
    )
    while True:
        (decision,) = _marks(*test, [*cond_consts, *carry])
        outputs = _marks(*body, [*body_consts, *carry])
        new = [decision | a | b for a, b in zip(carry, outputs, strict=True)]
        if new == carry:
            return carry
        carry = new


def _join(marks: Sequence[Mark]) -> Mark:
    return functools.reduce(operator.or_, marks, Mark.PLAIN)
