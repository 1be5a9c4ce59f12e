"""A brake for steps that grow the weights, and a norm that only they change.

Keller Jordan et al., *modded-nanogpt*, track 3, pull request 294.
"""

import optax

import decayax as dx


STRENGTH = {"text": -1, "digits": -1, "teacher": -1, "grokking": -1}


def chain(run):
    brake = dx.radial_brake(run.strength, mask=run.mask)
    pin = dx.pin_radius(mask=run.mask)
    return optax.chain(run.adam(), brake, run.step(), pin)
