"""Steps on the sphere of the initial norm; without a strength.

Wen et al., 2026, https://arxiv.org/abs/2606.16899 (it also normalises the update).
"""

import optax

import decayax as dx


STRENGTH = None


def chain(run):
    method = dx.fixed_norm(mask=run.mask)
    return optax.chain(run.adam(), run.step(), method)
