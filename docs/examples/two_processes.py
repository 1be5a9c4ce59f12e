"""Two processes train one bfloat16 model, and end with equal weights to the bit.

Each process loads its own half of the batch. Stochastic rounding draws the same bits in
both, because its key is in the optimizer state, which all processes share.

    python docs/examples/two_processes.py
"""

import functools
import hashlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec as P

import decayax as dx


PROCESSES, STEPS, BATCH = 2, 50, 32
OPTIMIZER = dx.with_stochastic_rounding(optax.adamw(1e-2, weight_decay=0.1))


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_step(params, state, x, y):
    def loss_fn(params):
        error = jnp.tanh(x @ params["first"]) @ params["second"] - y
        return jnp.mean(error.astype(jnp.float32) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = OPTIMIZER.update(grads, state, params)
    return dx.apply_updates(params, updates), state, loss


def init():
    first, second = jax.random.split(jax.random.key(0))
    params = {
        "first": jax.random.normal(first, (16, 64), jnp.bfloat16) / 4,
        "second": jax.random.normal(second, (64, 1), jnp.bfloat16) / 8,
    }
    return params, OPTIMIZER.init(params)


def work(process: int, port: str):
    """What each process runs: the same program on its own data."""
    jax.config.update("jax_platforms", "cpu")  # processes cannot share an accelerator
    jax.distributed.initialize(f"localhost:{port}", PROCESSES, process)
    mesh = jax.make_mesh((PROCESSES,), ("data",))
    replicated, by_row = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    params, state = jax.jit(init, out_shardings=replicated)()
    random = np.random.default_rng(process)
    for _ in range(STEPS):
        x = random.normal(size=(BATCH, 16)).astype(jnp.bfloat16)
        y = np.sin(x[:, :1])
        batch = (jax.make_array_from_process_local_data(by_row, a) for a in (x, y))
        params, state, loss = train_step(params, state, *batch)
    weights = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
    digest = hashlib.sha256(weights).hexdigest()[:16]
    print(f"process {process} of {jax.process_count()}: loss {loss:.4f}, {digest}")


def main():
    """Start the processes on this machine. A cluster's launcher does it there."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, __file__]
    workers = [subprocess.Popen([*command, str(i), port]) for i in range(PROCESSES)]
    sys.exit(max(worker.wait() for worker in workers))


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2]) if sys.argv[1:] else main()
