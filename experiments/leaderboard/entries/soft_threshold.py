"""Proximal L1: every weight shrinks by a constant, small ones become 0.

Beck and Teboulle, *A fast iterative shrinkage-thresholding algorithm*, SIAM Journal
on Imaging Sciences 2009.
"""

import optax

import decayax as dx


STRENGTH = {"text": -5, "digits": -2, "teacher": -2, "grokking": -3}


def chain(run):
    method = dx.soft_threshold(
        run.strength, learning_rate=run.learning_rate, mask=run.mask
    )
    return optax.chain(run.adam(), run.step(), method)
