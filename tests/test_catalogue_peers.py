"""The catalogue against optimizers of other packages, along their recorded steps.

`record_peers.py` made the recordings. Where a package does something else, a row of the
page docs/others.md says what; its numbers are measured here.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import record_peers
from record_peers import CASES, LEARNING_RATES, PEAK, RIGHT, WRONG

import decayax as dx
from decayax import rates


pytestmark = pytest.mark.relaxed("optax's part: adam")
MATRIX = {"w": True, "b": False}
# float32 in the peer; float32 in its memory; float64.
SINGLE, MEMORY, DOUBLE = {"atol": 3e-6}, {"atol": 2e-5}, {"atol": 1e-11}
TOLERANCES = {
    "pytorch-cpr bound": MEMORY,
    "pytorch-cpr factor": MEMORY,
    "pytorch-cpr warm start": MEMORY,
    "pytorch-cpr inflection": MEMORY,
    "rollfast SODA": SINGLE,
}


def recorded(case: str) -> dict[str, np.ndarray]:
    with np.load(record_peers.OUTPUT) as file:
        return record_peers.split(file[case])


def gamma(step):
    return jnp.asarray(LEARNING_RATES)[step]


def adam():
    return optax.scale_by_adam(0.9, 0.99, 1e-14)


def finish():
    return optax.scale_by_learning_rate(gamma)


def behind_adam(decay):
    """Place 2 of AdamW."""
    return optax.chain(adam(), decay, finish())


def stateless(rule, mask):
    """A transform of (update, parameter) for the leaves in the mask."""

    def update(updates, params):
        return jax.tree.map(
            lambda u, p, m: rule(u, p) if m else u, updates, params, mask
        )

    return optax.stateless(update)


def rescaled(update, param):
    return update * jnp.linalg.norm(param) / jnp.linalg.norm(update)


def tangent(update, param):
    return update - param * jnp.sum(param * update, axis=1, keepdims=True)


def hyperball(base, fallback_decay):
    """A step of γ‖θ‖ along the direction with decay, back onto the sphere."""
    mask = None if fallback_decay else MATRIX
    return optax.chain(
        base,
        dx.decoupled_decay(0.5, mask=mask),
        stateless(rescaled, MATRIX),
        finish(),
        dx.fixed_norm(radius="initial", mask=MATRIX),
    )


def power(order):
    return lambda x: jnp.sum(jnp.abs(x) ** order) / order


def corrected():
    decay = {"learning_rate": gamma, "peak_learning_rate": PEAK}
    return dx.corrected_decay(0.5, **decay)


def orthogonal():
    adamw = behind_adam(dx.decoupled_decay(0.5))
    return optax.chain(dx.project_radial_gradient(), adamw)


def adamp():
    return optax.chain(
        dx.project_radial_update(adam(), 0.5, threshold=1.5, decay_factor=0.1), finish()
    )


def sgdp():
    """Its authors divide the decay by 1 − momentum."""
    trace = optax.trace(0.5)
    return optax.chain(dx.project_radial_update(trace, 1.0, threshold=1.5), finish())


def constrained(*arguments, **options):
    constraint = dx.constrain_norm(*arguments, **options)
    return optax.chain(adam(), finish(), constraint)


def touched():
    return optax.chain(dx.touched_decay(optax.identity(), 0.5), finish())


def lion():
    palm = rates.lr_squared_schedule(0.5, learning_rate=gamma)
    base = optax.lion(gamma, 0.9, 0.99, weight_decay=0.0)
    return optax.chain(base, dx.independent_decay(palm))


def soda():
    pull = dx.decay_to_init(rates.inverse_step_schedule(), learning_rate=1.0)
    return optax.chain(optax.adam(gamma, 0.9, 0.99, 1e-14), pull)


def clipped():
    decay = dx.spectral_decay(0.1, cap=1.0, learning_rate=1.0, mask=MATRIX)
    return optax.chain(optax.sgd(gamma), decay)


def rms():
    return dx.scale_by_rms(0.99, 1e-14, bias_correction=True)


# What the catalogue has for each case.
OURS = {
    "adv_optm cautious": lambda: behind_adam(dx.cautious_decay(0.5)),
    "torchzero cautious": lambda: behind_adam(dx.cautious_decay(0.5, strict=True)),
    "pytorch_optimizer AdamC": lambda: behind_adam(corrected()),
    "timm corrected": lambda: behind_adam(corrected()),
    "timm corrected SGD": lambda: optax.chain(corrected(), finish()),
    "heavyball AdamC": lambda: behind_adam(corrected()),
    "adv_optm centered": lambda: behind_adam(dx.decay_to_init(0.5)),
    "heavyball to init": lambda: behind_adam(dx.decay_to_init(0.5)),
    "rollfast SODA": soda,
    "pytorch-cpr bound": lambda: constrained(5.0, step_size=0.3),
    "pytorch-cpr factor": lambda: constrained(initial_factor=1.1),
    "pytorch-cpr warm start": lambda: constrained(after_steps=3),
    "pytorch-cpr inflection": lambda: constrained(inflection_every=1),
    "heavyball hyperball": lambda: hyperball(rms(), fallback_decay=True),
    "rollfast hyperball": lambda: hyperball(adam(), fallback_decay=False),
    "emerging_optimizers oblique": lambda: optax.chain(
        optax.trace(0.9),
        stateless(tangent, MATRIX),
        finish(),
        dx.fixed_norm(axis=1, radius=1.0, mask=MATRIX),
    ),
    "timm Adan": lambda: optax.chain(
        adam(), finish(), dx.proximal_decay(0.5, learning_rate=gamma)
    ),
    "pytorch_optimizer OrthoGrad": orthogonal,
    "adv_optm OrthoGrad": orthogonal,
    "adamp AdamP": adamp,
    "timm AdamP": adamp,
    "pytorch_optimizer AdamP": adamp,
    "timm SGDP": sgdp,
    "torchzero L1": lambda: behind_adam(dx.decoupled_penalty(0.5, power(1))),
    "torchzero L4": lambda: behind_adam(dx.decoupled_penalty(0.5, power(4))),
    "emerging_optimizers palm": lion,
    "emerging_optimizers clipped": clipped,
    "torch_optim_sparse SGD": touched,
    "heavyball cautious": lambda: behind_adam(dx.cautious_decay(0.5)),
    "timm corrected, another peak": lambda: behind_adam(corrected()),
    "pytorch_optimizer AdamC, default": lambda: behind_adam(corrected()),
    "adv_optm centered, default": lambda: behind_adam(dx.decay_to_init(0.5)),
    "heavyball to average": lambda: behind_adam(
        dx.decay_to_average(0.5, average_rate=0.9)
    ),
    "heavyball L1 to average": lambda: optax.chain(adam(), finish()),
    "pytorch-cpr inflection, default": lambda: constrained(inflection_every=1),
    "torchzero OrthoGrad": orthogonal,
    "adamp SGDP": sgdp,
    "torchzero L3": lambda: behind_adam(dx.decoupled_penalty(0.5, power(3))),
    "torch_optim_sparse AdamW": touched,
    "torch_optim_sparse SGDW": touched,
    "pytorch_optimizer SpectralSphere": lambda: optax.chain(
        optax.sgd(gamma), dx.fixed_norm(spectral=True, mask=MATRIX)
    ),
}
# The output axis is the first one in torch, and the last one here.
OUTPUT_LAST = {case for case in CASES if case.endswith(("AdamP", "SGDP"))}


def ours(case: str) -> dict[str, np.ndarray]:
    """The path of our chain along the gradients of a case, in float64."""
    optimizer = OURS[case]()
    start, grads = record_peers.problem(case)
    if case in OUTPUT_LAST:
        start["w"], grads["w"] = start["w"].T, np.swapaxes(grads["w"], 1, 2)
    params, grads = jax.tree.map(jnp.asarray, (start, grads))

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    carry = params, optimizer.init(params)
    _, path = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(carry, grads)
    found = {k: np.concatenate([start[k][None], path[k]]) for k in start}
    if case in OUTPUT_LAST:
        found["w"] = np.swapaxes(found["w"], 1, 2)
    return found


def leaves(case: str) -> list[str]:
    """The leaves that the peer has updated."""
    build = CASES[case].build
    return ["w"] if build is record_peers.matrix_only else ["w", "b"]


@pytest.mark.parametrize("case", RIGHT)
def test_equals_the_recorded_path(case, x64):
    peer, found = recorded(case), ours(case)
    default = DOUBLE if CASES[case].dtype == "float64" else SINGLE
    for leaf in leaves(case):
        assert np.abs(peer[leaf][-1] - peer[leaf][0]).max() > 0.1
        tolerance = TOLERANCES.get(case, default)
        np.testing.assert_allclose(found[leaf], peer[leaf], rtol=0, **tolerance)


def test_the_recording_is_of_the_cases():
    assert set(OURS) == set(CASES)
    with np.load(record_peers.OUTPUT) as file:
        assert json.loads(str(file["options"])) == record_peers.options_of_all()
        assert {"versions", "options", *CASES} == set(file.files)
        for case in CASES:
            start, _ = record_peers.problem(case)
            rows = record_peers.split(file[case])
            for leaf, value in start.items():
                np.testing.assert_allclose(rows[leaf][0], value, rtol=1e-6)


# --- the table of differences in docs/others.md ------------------------------------


def difference(peer, found):
    """The largest difference of a weight."""
    gaps = [np.abs(peer[leaf] - found[leaf]).max() for leaf in ("w", "b")]
    return [f"{max(gaps):.3f}"]


def matrix_difference(peer, found):
    return difference(peer | {"b": 0.0}, found | {"b": 0.0})


def last(path, index=(1, 2)):
    """A weight after the last step; that of (1, 2) starts at 0.7, without gradient."""
    return f"{path['w'][-1][index]:.3f}"


def rate_at_the_peak(path):
    before, after = path["w"][2:4, 1, 2]
    return f"{1 - after / before:.0%}".replace("%", " %")


def square_norm(path):
    return f"{np.sum(path['w'][-1] ** 2):.2f}"


def first_bias(path, step):
    return f"{path['b'][step, 0]:.2f}".replace("-", "−")


def top_singular_value(path, step):
    return f"{np.linalg.norm(path['w'][step], 2):.3f}"


# Case -> (what its row says of package and call, the numbers of the row).
MEASURED = {
    "heavyball cautious": (
        "heavyball 3.2.1 `cautious_weight_decay=True`",
        lambda p, o: [last(p), last(p, (2, 1)).replace("-0.800", "−0.8")],
    ),
    "timm corrected, another peak": (
        "timm 1.0.31 `corrected_weight_decay=True`",
        lambda p, o: [rate_at_the_peak(p), rate_at_the_peak(o)],
    ),
    "pytorch_optimizer AdamC, default": (
        "pytorch_optimizer 4.1.0 `AdamC`",
        lambda p, o: [last(p), last(o)],
    ),
    "adv_optm centered, default": (
        "adv_optm 2.5.16 `centered_wd`",
        lambda p, o: [last(p), last(o).rstrip("0")],
    ),
    "heavyball to average": ("heavyball 3.2.1 `weight_decay_to_ema`", difference),
    "heavyball L1 to average": (
        "heavyball 3.2.1 `l1_weight_decay_to_ema`",
        lambda p, o: [last(p), last(o).rstrip("0")],
    ),
    "pytorch-cpr inflection, default": (
        'pytorch_cpr 0.3.1 `kappa_init_method="inflection_point"`',
        lambda p, o: [square_norm(p), square_norm(o)],
    ),
    "torchzero OrthoGrad": ("torchzero 0.4.4 `OrthoGrad`", difference),
    "adamp SGDP": ("adamp 0.3.0 `SGDP`", difference),
    "torchzero L3": (
        "torchzero 0.4.4 `WeightDecay(ord=3)`",
        lambda p, o: [first_bias(p, 0), first_bias(p, -1), first_bias(o, -1)],
    ),
    "torch_optim_sparse AdamW": (
        "torch_optim_sparse 0.1.3 `SparserAdamW`",
        lambda p, o: [last(p).rstrip("0"), last(o)],
    ),
    "torch_optim_sparse SGDW": (
        "torch_optim_sparse 0.1.3 `SparserSGDW`",
        matrix_difference,
    ),
    "pytorch_optimizer SpectralSphere": (
        "pytorch_optimizer 4.1.0 `SpectralSphere`",
        lambda p, o: [top_singular_value(p, 0), top_singular_value(p, -1)],
    ),
}


def section() -> str:
    page = Path(__file__).parent.parent / "docs" / "others.md"
    return page.read_text(encoding="utf-8").split("## Other packages")[1]


@pytest.mark.needs_checkout
@pytest.mark.parametrize("case", WRONG)
def test_a_row_says_what_a_package_does_instead(case, x64):
    peer, found = recorded(case), ours(case)
    assert float(difference(peer, found)[0] if "b" in leaves(case) else 1) > 0.005
    says, numbers = MEASURED[case]
    (row,) = [line for line in section().splitlines() if line.startswith(f"| {says}")]
    measured = row.rstrip(" |").split(" | ")[-1]
    for number in numbers(peer, found):
        assert number in measured, (number, measured)


@pytest.mark.needs_checkout
def test_the_section_has_a_row_for_each_case_and_the_recorded_versions():
    rows = [line for line in section().splitlines() if line.startswith("| ")]
    assert len(rows) - 1 == len(WRONG) == len(MEASURED)
    with np.load(record_peers.OUTPUT) as file:
        versions = json.loads(str(file["versions"]))
    for package in versions.keys() - {"torch"}:
        assert f"{package} {versions[package]}" in section()


def cosine(a, b):
    """Of each row."""
    return np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_adamp_has_steps_of_all_three_kinds():
    """Projected by unit, projected as a whole, and not projected."""
    start, grads = record_peers.problem("adamp AdamP")
    path, kinds = recorded("adamp AdamP")["w"], set()
    for theta, g in zip(path[:-1], grads["w"], strict=True):
        unit, whole = (
            np.max(np.abs(cosine(theta.reshape(shape), g.reshape(shape))))
            < 1.5 / np.sqrt(shape[1])
            for shape in ((3, 4), (1, 12))
        )
        kinds.add("unit" if unit else "whole" if whole else "none")
    assert kinds == {"unit", "whole", "none"}
