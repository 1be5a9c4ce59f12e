"""Undo the growth of the distance to init where the gradient points back.

Tian, Huang and Kira, 2024, https://arxiv.org/abs/2411.01713 (SPD).
"""

import optax

import decayax as dx


STRENGTH = {"text": 0, "digits": 0, "teacher": 4, "grokking": 0}


def chain(run):
    step = optax.chain(run.adam(), run.step())
    return dx.selective_projection(step, run.strength, mask=run.mask)
