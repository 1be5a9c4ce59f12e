"""Cautious decay: a weight decays only while its own step shrinks it.

Chen et al., *Cautious Weight Decay*, 2025, https://arxiv.org/abs/2510.12402.
"""

import optax

import decayax as dx


STRENGTH = {"text": 1, "digits": 4, "teacher": 7, "grokking": 1}


def chain(run):
    decay = dx.cautious_decay(run.strength, mask=run.mask)
    return optax.chain(run.adam(), decay, run.step())
