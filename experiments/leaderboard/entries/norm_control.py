"""Decay towards the initial norm: smaller weights grow.

Loshchilov, 2023, https://arxiv.org/abs/2311.11446, section 2 (AdamWN).
"""

import optax

import decayax as dx


STRENGTH = {"text": 3, "digits": 4, "teacher": 5, "grokking": 1}


def chain(run):
    decay = dx.norm_control(run.strength, target_ratio=1.0, mask=run.mask)
    return optax.chain(run.adam(), decay, run.step())
