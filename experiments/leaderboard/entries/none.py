"""Adam without decay.

Kingma and Ba, *Adam*, ICLR 2015, https://arxiv.org/abs/1412.6980.
"""

import optax


STRENGTH = None


def chain(run):
    return optax.chain(run.adam(), run.step())
