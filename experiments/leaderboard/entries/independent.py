"""Decoupled decay times η_t only: it does not depend on the learning rate.

Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
https://arxiv.org/abs/1711.05101, Algorithm 2, line 12.
"""

import optax

import decayax as dx


STRENGTH = {"text": -7, "digits": -8, "teacher": -6, "grokking": -5}


def chain(run):
    def rate(step):
        return run.strength * run.eta(step)

    decay = dx.independent_decay(rate, mask=run.mask)
    return optax.chain(run.adam(), run.step(), decay)
