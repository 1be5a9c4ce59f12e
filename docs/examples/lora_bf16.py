"""LoRA on a frozen bfloat16 model: only the adapters have an optimizer state.

Compensation keeps a residual of 2 bytes for each weight that it sees. Inside
`optax.partition` it sees the adapters only. Around it, frozen weights cost memory too.

    python docs/examples/lora_bf16.py
"""

import functools

import jax
import jax.numpy as jnp
import optax

import decayax as dx


WIDTH, RANK, STEPS = 128, 4, 300
ADAMW = optax.adamw(1e-3, weight_decay=0.1)
LABELS = {"base": "freeze", "lora": "train"}  # a prefix of the tree of parameters


def lora_optimizer(adapters):
    return optax.partition({"train": adapters, "freeze": optax.set_to_zero()}, LABELS)


OPTIMIZER = lora_optimizer(dx.with_compensation(ADAMW))
OUTSIDE = dx.with_compensation(lora_optimizer(ADAMW))  # only to compare


def init(key):
    """Two frozen layers, and an adapter A B for each; B starts at 0."""
    keys = jax.random.split(key, 4)

    def normal(key, *shape):
        return jax.random.normal(key, shape, jnp.bfloat16) * WIDTH**-0.5

    adapters = [(normal(k, WIDTH, RANK), 0 * normal(k, RANK, WIDTH)) for k in keys[2:]]
    return {"base": [normal(k, WIDTH, WIDTH) for k in keys[:2]], "lora": adapters}


def model(params, x):
    for weight, (a, b) in zip(params["base"], params["lora"], strict=True):
        x = jnp.tanh(x @ weight + x @ a @ b)
    return x


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_step(params, state, x, y):
    def loss_fn(lora):  # no gradients of the frozen weights
        error = model(params | {"lora": lora}, x) - y
        return jnp.mean(error.astype(jnp.float32) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(params["lora"])
    zeros = jax.tree.map(jnp.zeros_like, params["base"])
    grads = {"base": zeros, "lora": grads}
    updates, state = OPTIMIZER.update(grads, state, params)
    return dx.apply_updates(params, updates), state, loss


def main():
    params = init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (256, WIDTH), jnp.bfloat16)
    y = model(params, x[:, ::-1])  # another task
    base = jax.tree.map(jnp.copy, params["base"])
    state = OPTIMIZER.init(params)
    for name, tree in (("inside", state), ("outside", OUTSIDE.init(params))):
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        print(f"compensation {name} partition: {size:,} bytes of optimizer state")
    for step in range(STEPS):
        params, state, loss = train_step(params, state, x, y)
        if step in (0, STEPS - 1):
            print(f"step {step + 1}: loss {loss:.4f}")
    same = jax.tree.map(jnp.array_equal, base, params["base"])
    print(f"base unchanged: {all(same)}, adapters {params['lora'][0][0].dtype}")


if __name__ == "__main__":
    main()
