"""Neurons turn by the angle that AdamW reaches in its equilibrium, at a fixed norm.

Kosson, Messmer and Jaggi, 2023, https://arxiv.org/abs/2305.17212 (RV).
"""

import jax.numpy as jnp
import optax

import decayax as dx


STRENGTH = {"text": 0, "digits": 12, "teacher": 0, "grokking": 0}


def chain(run):
    def angle(step):
        decay = run.learning_rate(step) * run.strength
        return jnp.sqrt(2 * decay * (1 - run.b1) / (1 + run.b1))

    method = dx.rotational(angle, learning_rate=run.learning_rate, mask=run.mask)
    return optax.chain(run.adam(), method)
