"""Which leaves the update of a leaf is made of, other than through scalars.

A global norm is a scalar: every update may depend on it. An update that depends on the
elements of another leaf is different: equal leaves would hide which leaf it uses.
A set of leaves is an integer with one bit for each leaf.
"""

import functools
import operator
from collections.abc import Sequence

from decayax._jaxpr.dataflow import is_scalar
from decayax._jaxpr.flat import Block, Program


def entangled(init: Program, update: Program, num_leaves: int) -> list[bool]:
    """Whether each leaf is used by the update of another one, or uses another one."""
    own = [1 << i for i in range(num_leaves)]
    state = _owners(init, own)
    while True:
        outputs = _owners(update, [*own, *state, *own, 0])
        new = [a | b for a, b in zip(state, outputs[num_leaves:], strict=True)]
        if new == state:
            break
        state = new
    updates = zip(own, outputs[:num_leaves], strict=True)
    mixed = [leaf | owners for leaf, owners in updates if owners & ~leaf]
    union = functools.reduce(operator.or_, mixed, 0)
    return [bool(leaf & union) for leaf in own]


def _owners(program: Program, inputs: Sequence[int]) -> list[int]:
    """The owners of a program's outputs, from those of its inputs."""
    known = dict.fromkeys(program.constants, 0)
    known |= dict(zip(program.inputs, inputs, strict=True))
    return _owners_of_block(program.body, known)


def _owners_of_block(block: Block, known: dict[int, int]) -> list[int]:
    for op in block.operations:
        owners = [known[slot] for slot in op.inputs]
        if op.branches:
            branches = [_owners_of_block(branch, known) for branch in op.branches]
            results = [
                functools.reduce(operator.or_, outputs, owners[0])
                for outputs in zip(*branches, strict=True)
            ]
        else:
            union = functools.reduce(operator.or_, owners, 0)
            results = [union] * len(op.outputs)
        for slot, var, result in zip(op.outputs, op.eqn.outvars, results, strict=True):
            known[slot] = 0 if is_scalar(var) else result
    return [known[slot] for slot in block.outputs]
