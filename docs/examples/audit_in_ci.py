"""The audit as a gate in CI: exit code 0 for a right optimizer, 1 for a wrong one.

Import the factory that your training script uses. Shapes are enough for the parameters,
so the check needs neither weights nor an accelerator.

    python docs/examples/audit_in_ci.py
    python docs/examples/audit_in_ci.py --optimizer l2
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import optax

import decayax as dx


STEPS, WARM_UP = 20_000, 500


def schedule(learning_rate):
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, WARM_UP, STEPS)


def decoupled(learning_rate):
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        dx.adamw(
            schedule(learning_rate), weight_decay=0.1, mask=dx.masks.no_bias_or_norm
        ),
    )


def l2(learning_rate):
    """Wrong: Adam divides the decay by the root of the second moment."""
    return optax.chain(
        optax.add_decayed_weights(0.1), optax.adam(schedule(learning_rate))
    )


def fast(learning_rate):
    """Wrong: nothing multiplies this strength by the learning rate."""
    return optax.chain(optax.adam(schedule(learning_rate)), dx.independent_decay(0.1))


OPTIMIZERS = {"decoupled": decoupled, "l2": l2, "fast": fast}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="decoupled")
    name = parser.parse_args().optimizer
    params = {
        "dense": {
            "kernel": jax.ShapeDtypeStruct((1024, 4096), jnp.float32),
            "bias": jax.ShapeDtypeStruct((4096,), jnp.float32),
        },
    }
    # Measure at the peak of the schedule, where the decay is fastest. A factory also
    # shows whether the rate follows the learning rate.
    audit = dx.audit(OPTIMIZERS[name], params, learning_rate=1e-3, at_steps=(WARM_UP,))
    print(audit)
    try:
        audit.check(steps=STEPS)
    except ValueError as error:
        sys.exit(f"\n{name}: the audit failed.\n{error}")
    print(f"\n{name}: the audit passed.")


if __name__ == "__main__":
    main()
