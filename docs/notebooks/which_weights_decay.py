# %% [markdown]
# # Which weights decay?
#
# A mask decides. This notebook shows what the usual masks do to a transformer, and
# finds the weights whose size the model does not see.

# %%
import jax
import optax
from flax import nnx

import decayax as dx


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.last_norm = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, use_bias=False, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.down(nnx.gelu(self.up(self.last_norm(x))))


class Transformer(nnx.Module):
    def __init__(self, rngs, symbols=20, width=16):
        self.token = nnx.Embed(symbols, width, rngs=rngs)
        self.block = Block(width, rngs)
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, symbols, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.norm(self.block(self.token(tokens))))


model = Transformer(nnx.Rngs(0))
params = nnx.state(model, nnx.Param)

# %% [markdown]
# ## What a mask decides
#
# `describe` shows the decision for each parameter, and the rule behind it.

# %%
print(dx.masks.describe(dx.masks.no_bias_or_norm, params))

# %% [markdown]
# A common mask is `ndim > 1`. It also decays the biases of the attention, which are
# matrices here:


# %%
def matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


roles = dx.masks.describe(dx.masks.no_bias_or_norm, params).rows
for by_role, by_shape in zip(
    roles, dx.masks.describe(matrices, params).rows, strict=True
):
    if by_role.multiplier != by_shape.multiplier:
        print(f"{by_shape.path}: {by_shape.role}, {by_shape.shape}, decays")

# %% [markdown]
# Multipliers give each role its own strength:

# %%
mask = dx.masks.by_role(kernel=1.0, embedding=0.1)
print(dx.masks.describe(mask, params))

# %% [markdown]
# ## Does the optimizer do what the mask says?
#
# The audit measures it.

# %%
optimizer = dx.adamw(1e-3, weight_decay=0.1, mask=mask)
print(dx.audit(optimizer, params))

# %% [markdown]
# ## Whose size does the model not see?
#
# Decay on a weight before a normalization does not change what the model computes, only
# its effective learning rate. Names do not say which weights these are.

# %%
tokens = jax.random.randint(jax.random.key(0), (4, 8), 0, 20)
function, shown = dx.nnx_function(model, tokens)
symmetries = dx.scale_symmetries(function, shown)
print(symmetries)

# %% [markdown]
# The key bias is *dead*: the softmax does not see it, so it can only shrink. *Joint*
# leaves have a common scale: one may grow while another shrinks. No leaf of this model
# is *invariant* alone. With a norm of queries and keys (`normalize_qk`) two are:


# %%
def with_qk_norm(rngs):
    model = Transformer(rngs)
    model.block.attention = nnx.MultiHeadAttention(
        2, 16, decode=False, normalize_qk=True, use_bias=False, rngs=rngs
    )
    return model


function, shown = dx.nnx_function(with_qk_norm(nnx.Rngs(0)), tokens)
symmetries = dx.scale_symmetries(function, shown)
for leaf in symmetries.leaves:
    if leaf.kind == "invariant":
        print(leaf.path, "invariant, along axes", leaf.axes)

# %% [markdown]
# The audit then says where decay only changes the effective learning rate:

# %%
decay = optax.adamw(1e-3, weight_decay=0.1, mask=dx.masks.no_bias_or_norm)
for finding in dx.audit(decay, shown, symmetries=symmetries).findings:
    print(finding)
