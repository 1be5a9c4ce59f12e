"""Decay towards a moving average of the weights.

See `decayax.decay_to_average`, which cites no paper.
"""

import optax

import decayax as dx


STRENGTH = {"text": 0, "digits": 0, "teacher": 0, "grokking": 0}


def chain(run):
    decay = dx.decay_to_average(run.strength, mask=run.mask)
    return optax.chain(run.adam(), decay, run.step())
