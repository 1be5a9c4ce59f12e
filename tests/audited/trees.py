"""Trees and dtypes of parameters, factories, and arguments of update."""

import jax
import jax.numpy as jnp
import optax

import decayax as dx
from audited.row import (
    adamw,
    add,
    clean,
    independent,
    l2_adam,
    normal,
    SERIOUS,
    with_keyword,
)


# Trees and dtypes of parameters.


def network():
    return {
        "dense": {"kernel": normal(8, 8), "bias": normal(8, seed=1)},
        "norm": {"scale": jnp.ones(8)},
        "embed": {"embedding": normal(32, 8, seed=2)},
    }


PATHS = ("dense/kernel", "dense/bias", "norm/scale", "embed/embedding")
add(
    "biases and norms decay",
    adamw,
    dict.fromkeys(PATHS, "uniform"),
    dict.fromkeys(PATHS, 1e-4),
    params=network,
    findings=("biases or norms decay",),
    never=SERIOUS,  # γλ
    cured=lambda: dx.adamw(1e-3, weight_decay=0.1, mask=dx.masks.no_bias_or_norm),
)
clean(
    "no_bias_or_norm",
    lambda: dx.adamw(1e-3, weight_decay=0.1, mask=dx.masks.no_bias_or_norm),
    dict(zip(PATHS, ("uniform", "none", "none", "uniform"), strict=True)),
    dict(zip(PATHS, (1e-4, 0.0, 0.0, 1e-4), strict=True)),
    params=network,
)  # γλ
add(
    "the mask excludes all",
    lambda: adamw(mask={"kernel": False}),
    "none",
    0.0,
    findings=("nothing decays",),
    cured=lambda: adamw(mask={"kernel": True}),
)
add(
    "the strength that the user gave",
    lambda: optax.adam(1e-3),
    "none",
    0.0,
    options=lambda: {"weight_decay": 0.1},
    findings=("nothing decays",),
    cured=adamw,
)
clean(
    "a matrix and a scalar",
    adamw,
    {"kernel": "uniform", "temperature": "uniform"},
    {"kernel": 1e-4, "temperature": 1e-4},  # γλ
    params=lambda: {"kernel": normal(16, 16), "temperature": jnp.asarray(2.0)},
)
clean(
    "complex weights",
    adamw,
    "uniform",
    1e-4,  # γλ
    params=lambda: {"kernel": normal(16, 16) + 1j * normal(16, 16, seed=1)},
)
clean(
    "complex weights in two parts",
    lambda: optax.contrib.split_real_and_imaginary(adamw()),
    "uniform",
    1e-4,  # γλ
    params=lambda: {"kernel": normal(16, 16) + 1j * normal(16, 16, seed=1)},
)
clean(
    "shapes only",
    adamw,
    {"embedding": "uniform", "kernel": "uniform"},
    {"embedding": 1e-4, "kernel": 1e-4},  # γλ
    params=lambda: {
        "embedding": jax.ShapeDtypeStruct((4096, 256), jnp.float32),
        "kernel": jax.ShapeDtypeStruct((256, 256), jnp.float32),
    },
)
clean(
    "a leaf that is 0",
    adamw,
    {"kernel": "uniform", "lora_b": "uniform"},
    {"kernel": 1e-4, "lora_b": 1e-4},  # γλ, of any weights
    params=lambda: {"kernel": normal(16, 16), "lora_b": jnp.zeros((4, 16))},
)
clean(
    "a small and a large leaf",
    adamw,
    {"small": "uniform", "large": "uniform"},
    {"small": 1e-4, "large": 1e-4},  # γλ, without regard to the size
    params=lambda: {"small": 1e-3 * normal(16, 16), "large": 1e3 * normal(8, 8)},
)
add("an empty tree", adamw, {}, params=dict, findings=("nothing to audit",))


def frozen_tree():
    return {"kernel": normal(16, 16), "frozen": normal(8, 8, seed=1)}


def frozen_gradients():
    return {
        "gradients": {"kernel": normal(16, 16, seed=2), "frozen": jnp.zeros((8, 8))}
    }


add(
    "a frozen leaf decays",
    adamw,
    {"kernel": "uniform", "frozen": "uniform"},
    {"kernel": 1e-4, "frozen": 1e-4},  # γλ, with and without gradient
    params=frozen_tree,
    options=frozen_gradients,
    findings=("decay without gradient",),
    says=("frozen",),
    cured=lambda: dx.adamw(
        1e-3, weight_decay=0.1, mask={"kernel": True, "frozen": False}
    ),
)
add(
    "a frozen leaf decays outside its partition",
    lambda: independent(
        optax.partition(
            {"train": optax.adam(1e-3), "freeze": optax.set_to_zero()},
            {"kernel": "train", "frozen": "freeze"},
        ),
        1e-4,
    ),
    {"kernel": "uniform", "frozen": "uniform"},
    {"kernel": 1e-4, "frozen": 1e-4},  # λ
    params=frozen_tree,
    options=frozen_gradients,
    findings=("decay without gradient",),
    cured=lambda: optax.partition(
        {"train": adamw(), "freeze": optax.set_to_zero()},
        {"kernel": "train", "frozen": "freeze"},
    ),
)
# Without gradient, Adam divides λθ by |λθ|: the frozen leaf loses γ sign(θ).
add(
    "L2 and adam on a frozen leaf",
    l2_adam,
    {
        "kernel": "gradient-dependent",
        "frozen": ("scale-dependent", "gradient-dependent"),
    },
    params=frozen_tree,
    options=frozen_gradients,
    findings=("gradient-dependent", "decay without gradient"),
    cured=lambda: dx.adamw(
        1e-3, weight_decay=0.1, mask={"kernel": True, "frozen": False}
    ),
)

# Factories and arguments of update.

clean(
    "factory with decoupled decay",
    lambda: lambda learning_rate: adamw(learning_rate),
    "uniform",
)
clean(
    "factory with independent decay",
    lambda: lambda learning_rate: independent(optax.adam(learning_rate), 1e-4),
    "uniform",
    1e-4,
)  # λ for each learning rate
clean(
    "a keyword loss",
    lambda: with_keyword("loss"),
    "uniform",
    1e-4,  # γλ
    options=lambda: {"extra_args": {"loss": 1.0}},
)
add(
    "opaque SAM needs grad_fn",
    lambda: optax.contrib.sam(adamw(), optax.sgd(0.05), opaque_mode=True),
    {},
    findings=("not auditable",),
    says=("grad_fn",),
)
add(
    "sophia needs obj_fn",
    lambda: optax.contrib.sophia(1e-3),
    {},
    findings=("not auditable",),
    says=("obj_fn",),
)


def averaged_over_batch():
    mean = optax.stateless(
        lambda u, p: jax.tree.map(lambda g: jax.lax.pmean(g, "batch"), u)
    )
    return optax.chain(mean, adamw())


clean(
    "pmean over an axis",
    averaged_over_batch,
    "uniform",
    1e-4,  # γλ
    options=lambda: {"axis_names": ("batch",)},
)
