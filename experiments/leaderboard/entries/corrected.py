"""Corrected decay: λ falls with the learning rate, as in AdamC.

Defazio, 2025, https://arxiv.org/abs/2506.02285.
"""

import optax

import decayax as dx


STRENGTH = {"text": 0, "digits": 4, "teacher": 2, "grokking": 0}


def chain(run):
    decay = dx.corrected_decay(
        run.strength,
        learning_rate=run.learning_rate,
        peak_learning_rate=run.peak_learning_rate,
        mask=run.mask,
    )
    return optax.chain(run.adam(), decay, run.step())
