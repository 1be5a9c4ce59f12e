"""Only the largest singular value of each matrix decays.

Newhouse et al., 2025, https://arxiv.org/abs/2507.13338.
"""

import optax

import decayax as dx


STRENGTH = {"text": 1, "digits": 10, "teacher": 2, "grokking": 2}


def chain(run):
    decay = dx.spectral_decay(run.strength, iterations=2, mask=run.mask)
    return optax.chain(run.adam(), decay, run.step())
