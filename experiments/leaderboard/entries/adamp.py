"""AdamP: no radial part in steps on weights whose size the loss does not see.

Heo et al., 2021, https://arxiv.org/abs/2006.08217.
"""

import optax

import decayax as dx


STRENGTH = {"text": 0, "digits": 4, "teacher": 2, "grokking": 0}


def chain(run):
    method = dx.project_radial_update(run.adam(), run.strength, mask=run.mask)
    return optax.chain(method, run.step())
