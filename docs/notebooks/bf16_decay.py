# %% [markdown]
# # Does my bf16 run decay?
#
# A bfloat16 number has 8 significant bits. The next number is 1/128 to 1/256 of the
# weight away, and a step of weight decay is much smaller. This notebook asks the audit,
# shows the weights, and repairs the run.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import decayax as dx


weight = jnp.ones((), jnp.bfloat16)
print("after one step of decay:", weight * jnp.bfloat16(1 - 1e-4))

# %% [markdown]
# ## Ask the audit
#
# Replace `optimizer` and `params` by your own; shapes are enough.

# %%
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.1
optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
params = {"kernel": jax.ShapeDtypeStruct((256, 256), jnp.bfloat16)}
print(dx.audit(optimizer, params))

# %% [markdown]
# ## See it
#
# These weights get no gradient, so they only decay. After t steps (1 − γλ)^t of them
# should be left.


# %%
def share_left(optimizer, dtype, steps=4000):
    start = jax.random.normal(jax.random.key(0), (4096,)).astype(dtype)
    norm = jnp.linalg.norm(start.astype(jnp.float32))

    def step(carry, _):
        weights, state = carry
        updates, state = optimizer.update(jnp.zeros_like(weights), state, weights)
        weights = dx.apply_updates(weights, updates)
        return (weights, state), jnp.linalg.norm(weights.astype(jnp.float32)) / norm

    _, left = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    return left


compensated = dx.with_compensation(optimizer)
stochastic = dx.with_stochastic_rounding(optimizer)
runs = {
    "float32": share_left(optimizer, jnp.float32),
    "bfloat16": share_left(optimizer, jnp.bfloat16),
    "bfloat16, with_compensation": share_left(compensated, jnp.bfloat16),
    "bfloat16, with_stochastic_rounding": share_left(stochastic, jnp.bfloat16),
}
for name, left in runs.items():
    print(f"{name:36} {left[-1]:.4f}")

# %% alt="The share that is left: 1 in plain bfloat16, else as in float32"
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
styles = ("-", "-", "--", ":")
for style, (name, left) in zip(styles, runs.items(), strict=True):
    axes.plot(left, style, label=name)
axes.set_xlabel("step")
axes.set_ylabel("share of the weights that is left")
axes.set_ylim(0, 1.05)
axes.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# ## Repair it
#
# Both wrappers run the optimizer in float32 and let small steps survive. Stochastic
# rounding rounds at random and is right on average. Compensation (Kahan summation,
# error feedback) keeps what the rounding cuts off, 2 bytes for each weight.

# %%
print(dx.audit(compensated, params), end="\n\n")
print(dx.audit(stochastic, params))

# %% [markdown]
# Add the updates with `dx.apply_updates`: the weights stay bfloat16, also in an Equinox
# module. In the middle of a run, `adopt_state` keeps the moments and the step count.

# %%
weights = {"kernel": jnp.ones((8, 8), jnp.bfloat16)}
old_state = optimizer.init(weights)
for _ in range(3):
    updates, old_state = optimizer.update(weights, old_state, weights)
state = dx.adopt_state(compensated, weights, old_state)
print("step count:", optax.tree.get(state, "count"))

# %% [markdown]
# ## From which rate on does plain bfloat16 decay?
#
# 1000 steps without gradient, at several rates γλ.


# %%
def left_after_1000_steps(rate):
    decay = dx.sgdw(1.0, weight_decay=rate)
    plain = share_left(decay, jnp.bfloat16, steps=1000)
    cured = share_left(dx.with_compensation(decay), jnp.bfloat16, steps=1000)
    return plain[-1], cured[-1]


rates = jnp.array([1e-5, 1e-4, 1e-3, 3e-3, 1e-2])
plain, cured = jax.vmap(left_after_1000_steps)(rates)  # all rates in one program
print("rate    exact   bfloat16  compensated")
for rate, *left in zip(rates, plain, cured, strict=True):
    print(f"{rate:<7g} {(1 - rate) ** 1000:.4f}  {left[0]:.4f}    {left[1]:.4f}")
