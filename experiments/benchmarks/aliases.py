"""What does `weight_decay` mean in each of Optax's optimizers?

Question    For every alias and contributed optimizer of Optax: which decay rate does a
            strength λ give, in which mode, and does the rate follow the learning rate?
Command     python -m experiments.benchmarks.aliases
            (prints the table of docs/others.md)
Cost        about three minutes on 2 CPU cores
Expected    The modes in `WITH`, which were read from Optax's code.
Reference   Optax 0.2.8, `_src/alias.py` and `contrib`.

Every optimizer is built with the learning rate and the strength below, and audited on
one matrix. `WITHOUT` lists the optimizers that have no weight decay.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from optax import contrib

import decayax as dx


STRENGTH = 0.1
PARAMS = {"kernel": jax.random.normal(jax.random.key(0), (16, 16))}


class Alias(NamedTuple):
    """An optimizer with weight decay, and how its code uses λ."""

    name: str
    mode: str
    means: str
    learning_rate: float = 1e-3
    module: Any = optax
    strength: str | None = "weight_decay"  # the argument of λ; None if there is none
    make: Callable[..., Any] | None = None  # (learning rate, λ) -> optimizer

    def build(self, learning_rate: float, strength: float) -> Any:
        """The optimizer with this learning rate and this strength."""
        if self.make:
            return self.make(learning_rate, strength)
        given = {self.strength: strength} if self.strength else {}
        return getattr(self.module, self.name)(learning_rate, **given)


DECOUPLED = "γλ, after the preconditioner"
CONTRIB = functools.partial(Alias, module=contrib)
WITH = [
    Alias("adamw", "uniform", DECOUPLED),
    Alias("nadamw", "uniform", DECOUPLED),
    Alias("adamaxw", "uniform", DECOUPLED),
    Alias("adan", "uniform", DECOUPLED),
    Alias("lion", "uniform", DECOUPLED),
    CONTRIB("acprop", "uniform", DECOUPLED),
    CONTRIB("ademamix", "uniform", DECOUPLED),
    CONTRIB("simplified_ademamix", "uniform", DECOUPLED),
    CONTRIB("galore", "uniform", DECOUPLED),
    CONTRIB("muon", "uniform", "γλ, of matrices only"),
    Alias(
        "adafactor",
        "uniform",
        "λ, after the learning rate",
        strength="weight_decay_rate",
    ),
    Alias("novograd", "uniform", "L2 after the preconditioner, in the momentum"),
    Alias("fromage", "uniform", "1 − 1/√(1 + γ²), fixed: there is no λ", strength=None),
    CONTRIB("momo", "uniform", "proximal, γλ/(1 + γλ)"),
    CONTRIB("momo_adam", "uniform", "proximal, γλ/(1 + γλ)"),
    CONTRIB("prodigy", "uniform", "dγλ, d found while training", 1.0),
    CONTRIB("dadapt_adamw", "uniform", "dγλ, d found while training", 1.0),
    CONTRIB("schedule_free_sgd", "uniform", "γλ of one of two averaged sequences"),
    CONTRIB("schedule_free_adamw", "uniform", "γλ of one of two averaged sequences"),
    Alias("lamb", "scale-dependent", "in the trust ratio: γλ‖θ‖/‖u + λθ‖"),
    Alias("lars", "gradient-dependent", "in the trust ratio: ∝ γλ‖θ‖/‖g + λθ‖"),
    Alias("adadelta", "gradient-dependent", "L2, through the preconditioner", 1.0),
    CONTRIB("madgrad", "gradient-dependent", "L2, through the preconditioner"),
    CONTRIB("cocob", "gradient-dependent", "L2, through the bets", 1.0),
    CONTRIB("dog", "gradient-dependent", "L2, through the norm of the gradients", 1.0),
    CONTRIB("dowg", "gradient-dependent", "L2, through the norm of the gradients", 1.0),
    CONTRIB(
        "mechanize",
        "none",
        "only in its own tuning of γ, never on the weights",
        make=lambda lr, strength: contrib.mechanize(
            optax.adam(lr), weight_decay=strength
        ),
    ),
]
WITHOUT = {
    optax: "adabelief adagrad adam adamax amsgrad nadam noisy_sgd optimistic_adam "
    "optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam rmsprop rprop sgd "
    "sign_sgd signum sm3 yogi",
    contrib: "adopt",
}
NOT_AUDITABLE = {optax: "lbfgs", contrib: "sophia"}


def audited(alias: Alias) -> Any:
    """The audit's answer for one optimizer."""
    make = functools.partial(alias.build, strength=STRENGTH)
    return dx.audit(make, PARAMS, learning_rate=alias.learning_rate).leaves[0]


def row(alias: Alias) -> str:
    """One line of the table: what the code says, and what the audit measured."""
    leaf = audited(alias)
    # One rate for each scale of the gradient: they differ if it depends on them.
    rates = " / ".join(f"{rate:.2g}" for _, rate in leaf.by_gradient_scale)
    if leaf.mode == "none":
        rates = "0"
    follows = {True: "yes", False: "no", None: ""}[leaf.follows_learning_rate]
    return (
        f"| `{alias.name}` | {alias.means} | {leaf.mode} | {alias.learning_rate:g} "
        f"| {rates} | {follows} |"
    )


def main() -> None:
    """Print the table."""
    print("| optimizer | λ means | mode | γ | rate per step | follows γ |")
    print("|---|---|---|---|---|---|")
    for alias in WITH:
        if hasattr(alias.module, alias.name):
            print(row(alias), flush=True)


if __name__ == "__main__":
    main()
