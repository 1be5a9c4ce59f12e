"""Plain trees: L2 and decoupled decay over a grid of strengths, one program for each.

The strength is a traced argument, so one `vmap` trains all strengths at the same time.
The same number shrinks the weights differently in each place: compare the norms.

    python docs/examples/plain_tree.py
"""

import jax
import jax.numpy as jnp
import optax

import decayax as dx


STEPS = 1000
STRENGTHS = jnp.array([0.0, 0.01, 0.1, 1.0])


def init(key):
    hidden, out = jax.random.split(key)
    return {
        "hidden": {"w": jax.random.normal(hidden, (8, 32)) / 3, "b": jnp.zeros(32)},
        "out": {"w": jax.random.normal(out, (32,)) / 6, "b": jnp.zeros(())},
    }


def loss_fn(params, x, y):
    hidden = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return jnp.mean((hidden @ params["out"]["w"] + params["out"]["b"] - y) ** 2)


def l2(weight_decay):
    """RMSprop with L2: the preconditioner divides the decay, too."""
    return optax.chain(
        dx.add_l2_to_grad(weight_decay, mask=dx.masks.no_bias_or_norm),
        dx.scale_by_rms(),
        optax.scale_by_learning_rate(1e-3),
    )


def decoupled(weight_decay):
    """RMSprop with decoupled decay: the same parts in another order."""
    return optax.chain(
        dx.scale_by_rms(),
        dx.decoupled_decay(weight_decay, mask=dx.masks.no_bias_or_norm),
        optax.scale_by_learning_rate(1e-3),
    )


def train(make_optimizer, weight_decay, params, x, y):
    optimizer = make_optimizer(weight_decay)

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    carry = params, optimizer.init(params)
    (params, _), losses = jax.lax.scan(step, carry, length=STEPS)
    return losses[-1], jnp.linalg.norm(params["hidden"]["w"])


def main():
    scales = 10.0 ** jnp.linspace(-1.5, 0.5, 8)
    x = jax.random.normal(jax.random.key(0), (256, 8)) * scales
    y = jnp.sin(x / scales).sum(axis=1)
    params = init(jax.random.key(1))
    print("weight decay  " + "  ".join(f"{w:12g}" for w in STRENGTHS))
    for make in (l2, decoupled):
        sweep = jax.jit(jax.vmap(lambda w, make=make: train(make, w, params, x, y)))
        losses, norms = sweep(STRENGTHS)
        print(f"{make.__name__:9} loss" + "".join(f"  {v:12.3f}" for v in losses))
        print(f"{make.__name__:9} norm" + "".join(f"  {v:12.3f}" for v in norms))


if __name__ == "__main__":
    main()
