"""The decay whose equilibrium is the initial norm; without a strength.

Chou, 2025, https://arxiv.org/abs/2512.08217.
"""

import optax

import decayax as dx


STRENGTH = None


def chain(run):
    decay = dx.target_norm_decay(
        "initial", learning_rate=run.learning_rate, momentum=run.b1, mask=run.mask
    )
    return optax.chain(run.adam(), decay, run.step())
