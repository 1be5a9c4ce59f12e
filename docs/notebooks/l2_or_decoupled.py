# %% [markdown]
# # L2 or decoupled: see it
#
# L2 regularisation adds λθ to the gradient. Decoupled weight decay shrinks θ itself.
# Under Adam they differ: Adam divides all that is in the gradient by √v, and so the L2
# term, too. This notebook measures the decay of each weight under both.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import decayax as dx


WEIGHTS, STEPS = 400, 300
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.1

# %% [markdown]
# Each weight gets random gradients with a standard deviation of its own, from 0.01 to
# 10. The weights are random too, with a standard deviation of 0.02.

# %%
weights = 0.02 * jax.random.normal(jax.random.key(0), (WEIGHTS,))
size = jnp.logspace(-2, 1, WEIGHTS)
gradients = size * jax.random.normal(jax.random.key(1), (STEPS, WEIGHTS))

# %% [markdown]
# ## The rate of each weight
#
# The *retention* of a weight is dθ_T/dθ_0 with the gradients held fixed: how much of
# the initial weight is left after T steps. The rate per step is 1 − retention^(1/T).
# The mean over g and −g removes terms that change sign with the gradients.


# %%
def retention(optimizer, gradients):
    def final(weights):
        def step(carry, gradient):
            weights, state = carry
            update, state = optimizer.update(gradient, state, weights)
            return (weights + update, state), None

        (last, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), gradients)
        return last

    return jax.jvp(final, (weights,), (weights,))[1] / weights


def rates(optimizer):
    left = (retention(optimizer, gradients) + retention(optimizer, -gradients)) / 2
    return 1 - left ** (1 / STEPS)


l2 = dx.adam_l2(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
decoupled = dx.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
measured = {"Adam with L2": rates(l2), "AdamW": rates(decoupled)}

for name, rate in measured.items():
    slope = np.polyfit(np.log(size), np.log(rate), 1)[0]
    print(f"{name:12} rates {rate.min():.1e} to {rate.max():.1e}, slope {slope:+.2f}")

# %% alt="Rate of each weight against the size of its gradients"
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, rate in measured.items():
    axes.loglog(size, rate, ".", markersize=4, label=name)
axes.axhline(LEARNING_RATE * WEIGHT_DECAY, color="0.6", linewidth=1, zorder=0)
axes.set_xlabel("standard deviation of the gradients of the weight")
axes.set_ylabel("rate of decay per step")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# With L2, a weight with ten times larger gradients decays ten times more slowly: the
# rate is γλ/√v. With decoupled decay every weight has the rate γλ, the grey line.
#
# ## Ask the audit
#
# `dx.audit` says this of any optimizer, before training. The columns show the rate for
# gradients of three sizes.

# %%
params = {"kernel": jax.ShapeDtypeStruct((64, 64), jnp.float32)}
print(dx.audit(l2, params), end="\n\n")
print(dx.audit(decoupled, params))

# %% [markdown]
# ## Without a preconditioner they are the same
#
# Plain SGD multiplies everything by the learning rate and divides by nothing. The two
# rates agree up to rounding.

# %%
plain = {
    "SGD with L2": rates(dx.sgd_l2(LEARNING_RATE, weight_decay=WEIGHT_DECAY)),
    "SGDW": rates(dx.sgdw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)),
}
for name, rate in plain.items():
    print(f"{name:12} rates {rate.min():.2e} to {rate.max():.2e}")
