"""AdamW whose gradient has no part along the weights.

Prieto et al., 2025, https://arxiv.org/abs/2501.04697 (⊥Grad).
"""

import optax

import decayax as dx


STRENGTH = {"text": -2, "digits": 2, "teacher": -2, "grokking": -4}


def chain(run):
    project = dx.project_radial_gradient(mask=run.mask)
    decay = dx.decoupled_decay(run.strength, mask=run.mask)
    return optax.chain(project, run.adam(), decay, run.step())
