"""AdamW: decoupled decay, times the learning rate. The baseline of the board.

Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
https://arxiv.org/abs/1711.05101.
"""

import optax

import decayax as dx


STRENGTH = {"text": 0, "digits": 4, "teacher": 2, "grokking": 0}


def chain(run):
    decay = dx.decoupled_decay(run.strength, mask=run.mask)
    return optax.chain(run.adam(), decay, run.step())
