"""Decay towards the initial weights and not towards 0.

Kumar et al., 2023, https://arxiv.org/abs/2308.11958 (L2-Init, there in the gradient).
"""

import optax

import decayax as dx


STRENGTH = {"text": 0, "digits": 0, "teacher": 0, "grokking": 1}


def chain(run):
    decay = dx.decay_to_init(run.strength, mask=run.mask)
    return optax.chain(run.adam(), decay, run.step())
