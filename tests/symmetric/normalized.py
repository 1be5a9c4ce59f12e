"""Normalized weights, normalized features, LoRA, and losses."""

import jax
import jax.numpy as jnp
from jax import lax

from symmetric.layers import unit
from symmetric.mlps import THREE, three_layers
from symmetric.model import data, draw, epsilon, group, truth


def cross_entropy(logits, labels):
    return -jnp.mean(
        jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
    )


def labels(count, classes=4):
    return jnp.arange(count, dtype=jnp.int32) % classes


@truth(groups=(group("w1 b1 b2", "w3"), group("w2 b2", "w3")))
def cross_entropy_relu():
    """A scalar loss. It sees the scale of the logits: the equations of `mlp_relu`."""
    x, y = data(12, 5), labels(12)

    def function(p):
        return cross_entropy(three_layers(p, x, jax.nn.relu), y)

    return function, draw(51, **THREE)


@truth(
    groups=(group("w1 b1 b2"), group("w2 b2")),
    invariant={"classes": (1,)},
)
def cosine_classifier():
    """s · cos(h, class): each class vector is invariant, and so is the degree of h.

    b1 = w1, b2 = w1 + w2 (h is relu of both layers): w1, w2 free. The scale s is seen.
    """
    x, y = data(12, 5), labels(12)
    shapes = {name: THREE[name] for name in ("w1", "b1", "w2", "b2")}
    params = draw(52, **shapes, classes=(9, 4), g_scale=())

    def function(p):
        h = jax.nn.relu(jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])
        cosines = unit(h, -1, 1e-8) @ unit(p["classes"], 0, 1e-8)
        return cross_entropy(p["g_scale"] * cosines, y)

    return function, params


@truth(
    invariant={"a/w1": (), "a/w2": ()},
    groups=(group("b/w1 b/b2"), group("b/w2 b/b2")),
)
def contrastive():
    """exp(t) cos(a, b): the degree of each tower is free. The temperature t is seen.

    Tower a has no biases: w1 and w2 are free. In tower b: b2 = w1 + w2.
    """
    x, z = data(9, 5), data(9, 6, seed=5)
    a, b = dict(w1=(5, 7), w2=(7, 4)), dict(w1=(6, 8), w2=(8, 4), b2=(4,))

    def function(p):
        one = unit(jax.nn.relu(x @ p["a"]["w1"]) @ p["a"]["w2"])
        two = unit(jax.nn.relu(z @ p["b"]["w1"]) @ p["b"]["w2"] + p["b"]["b2"])
        logits = jnp.exp(p["temperature"]) * one @ two.T
        return cross_entropy(logits, jnp.arange(9))

    return function, draw(53, a=a, b=b, temperature=())


@truth()
def tied_autoencoder():
    """relu(x w + b) wᵀ + c has degree 2 w = 0."""
    x = data(8, 5)
    params = draw(54, w=(5, 7), b=(7,), c=(5,))
    return lambda p: jax.nn.relu(x @ p["w"] + p["b"]) @ p["w"].T + p["c"], params


@truth(
    invariant={"v1": (1,), "v2": (1,), "v3": (1,)},
    groups=(group("g1 b1 b2", "g3"), group("g2 b2", "g3")),
)
def weight_norm():
    """w = g v/|v| per output: v is invariant per output. g1 + g2 + g3 = 0."""
    x = data(8, 5)
    shapes = {name.replace("w", "v"): shape for name, shape in THREE.items()}

    def function(p):
        kernels = {f"w{i}": p[f"g{i}"] * unit(p[f"v{i}"], 0) for i in (1, 2, 3)}
        return three_layers(p | kernels, x, jax.nn.relu)

    return function, draw(55, g1=(7,), g2=(9,), g3=(4,), **shapes)


@truth(invariant={"w1": (1,), "w2": (0,), "w3": ()})
def three_epsilons():
    """w/max(|w|, ε) per column, w rsqrt(Σ w² + ε) per row, w/(|w| + ε) of the whole.

    The kernels have degree 0, so the biases are seen.
    """
    x = data(8, 5)

    def function(p):
        w2, w3 = p["w2"], p["w3"]
        sizes = jnp.sum(w2**2, 1, keepdims=True)
        kernels = {
            "w1": unit(p["w1"], 0),
            "w2": w2 * lax.rsqrt(sizes + epsilon(1e-6)),
            "w3": w3 / (jnp.sqrt(jnp.sum(w3**2)) + epsilon(1e-8)),
        }
        return three_layers(p | kernels, x, jax.nn.relu)

    return function, draw(56, **THREE)


@truth(invariant={"w1": (), "w2": ()}, groups=(group("g b1 b2", "w3"),))
def spectral_norm():
    """w/σ(w) by power iterations; u and v are constants for the gradient.

    b1 = g; w1, w2 have degree 0 after the division: b2 = g, w3 = -g, b3 = 0.
    """
    x = data(8, 5)

    def divided(w):
        u = jnp.ones(w.shape[1])
        for _ in range(3):
            v = unit(w @ u)
            u = unit(v @ w)
        u, v = lax.stop_gradient((u, v))
        return w / (v @ w @ u)

    def function(p):
        kernels = {"w1": divided(p["w1"]) * p["g"], "w2": divided(p["w2"])}
        return three_layers(p | kernels, x, jax.nn.relu)

    return function, draw(57, g=(), **THREE)


@truth(groups=(group("a", "b"),))
def lora():
    """relu(x (w + a b)) v with a constant w: a + b = 0, so v = 0."""
    x, w = data(8, 5), data(5, 7, seed=6)
    params = draw(58, a=(5, 3), b=(3, 7), v=(7, 4))
    return lambda p: jax.nn.relu(x @ (w + p["a"] @ p["b"])) @ p["v"], params


@truth(groups=(group("a", "b"), group("w b", "v")))
def lora_trainable_kernel():
    """w = a + b = -v."""
    x = data(8, 5)
    params = draw(59, w=(5, 7), a=(5, 3), b=(3, 7), v=(7, 4))
    return lambda p: jax.nn.relu(x @ (p["w"] + p["a"] @ p["b"])) @ p["v"], params


@truth(groups=(group("a", "b"), group("w b"), group("g", "v")))
def dora():
    """g (w + a b)/|w + a b|: w = a + b is free, g = -v.

    Not per column: w and b together are, but w alone is not invariant.
    """
    x = data(8, 5)
    params = draw(60, w=(5, 7), a=(5, 3), b=(3, 7), g=(7,), v=(7, 4))

    def function(p):
        kernel = p["g"] * unit(p["w"] + p["a"] @ p["b"], 0)
        return jax.nn.relu(x @ kernel) @ p["v"]

    return function, params
