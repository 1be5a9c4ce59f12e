"""Adam with L2: the decay is added to the gradient, in front of Adam.

Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
https://arxiv.org/abs/1711.05101, Algorithm 2, line 6.
"""

import optax


STRENGTH = {"text": -10, "digits": -6, "teacher": -6, "grokking": -11}


def chain(run):
    l2 = optax.add_decayed_weights(run.strength, mask=run.mask)
    return optax.chain(l2, run.adam(), run.step())
