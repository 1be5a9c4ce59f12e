"""The pull of a Huber penalty: as AdamW up to |θ| = 0.1, constant beyond.

See `decayax.decoupled_penalty`, which cites no paper.
"""

import optax

import decayax as dx


STRENGTH = {"text": 0, "digits": 4, "teacher": 2, "grokking": 2}


def huber(x):
    return optax.losses.huber_loss(x, delta=0.1).sum()


def chain(run):
    decay = dx.decoupled_penalty(run.strength, huber, mask=run.mask)
    return optax.chain(run.adam(), decay, run.step())
