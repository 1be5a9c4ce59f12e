"""The squared norm stays below a bound; the strength is its ratio to that at init.

Franke et al., 2023, https://arxiv.org/abs/2311.09058 (CPR).
"""

import optax

import decayax as dx


STRENGTH = {"text": 0, "digits": 0, "teacher": 0, "grokking": 2}


def chain(run):
    method = dx.constrain_norm(initial_factor=run.strength, mask=run.mask)
    return optax.chain(run.adam(), run.step(), method)
