"""Proximal decay: the new weights are divided by 1 + γλ.

Zhuang et al., 2022, https://arxiv.org/abs/2202.00089 (AdamProx).
"""

import optax

import decayax as dx


STRENGTH = {"text": 0, "digits": 4, "teacher": 2, "grokking": 0}


def chain(run):
    method = dx.proximal_decay(
        run.strength, learning_rate=run.learning_rate, mask=run.mask
    )
    return optax.chain(run.adam(), run.step(), method)
