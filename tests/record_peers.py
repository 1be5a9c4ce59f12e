"""Record how optimizers of other packages decay, as a reference for the catalogue.

Each case runs one optimizer of another package for 8 steps on the CPU, with two leaves,
fixed gradients and a learning rate that changes. ``data/peer_trajectories.npz`` keeps

    <case>      the leaves of a step in one row, [9, 16]; row 0 is the start
    versions    the versions of the packages that made the file, as a JSON string
    options     peer and options of each case, as a JSON string

`problem` makes start and gradients again from their seed. The file is committed: the
tests read it and need none of the packages. To make it again (Python >= 3.12):

    pip install torch==2.13.0 jax optax pillow pyyaml huggingface_hub safetensors
    pip install --no-deps torchvision==0.28.0 adamp==0.3.0 adv_optm==2.5.16 \
        emerging-optimizers==0.3.0 heavyball==3.2.1 pytorch-cpr==0.3.1 \
        pytorch_optimizer==4.1.0 rollfast==1.3.0 timm==1.0.31 \
        torch-optim-sparse==0.1.3 torchzero==0.4.4
    python tests/record_peers.py
"""

import importlib
import importlib.metadata
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from record_torch import save


OUTPUT = Path(__file__).parent / "data" / "peer_trajectories.npz"
STEPS = 8
SHAPES = {"w": (3, 4), "b": (4,)}  # as in torch: the output axis is the first
PEAK = 0.1
LEARNING_RATES = PEAK * np.array([0.4, 0.8, 1.0, 0.9, 0.7, 0.5, 0.3, 0.2])
# These two weights have no gradient; one is positive, one negative.
WITHOUT_GRADIENT = {(1, 2): 0.7, (2, 1): -0.8}


class Case(NamedTuple):
    """One optimizer of another package."""

    peer: str  # where the class or function is
    options: dict[str, Any]  # its keyword arguments
    build: Callable | None = None  # (peer, parameters, options) -> optimizer
    group: dict[str, Any] = {}  # entries of the parameter group
    dtype: str = "float64"


# ε is tiny because packages place it before or after the bias correction.
_ADAM = {"lr": PEAK, "betas": (0.9, 0.99), "eps": 1e-14}
_ADAMW = {**_ADAM, "weight_decay": 0.5}
_SGDP = {"lr": PEAK, "momentum": 0.5, "weight_decay": 0.5, "eps": 1e-14}
_CPR = {"regularize": True}


def _cpr(method, value=0.0, **options):
    start = {"kappa_init_method": method, "kappa_init_param": value}
    return Case("pytorch_cpr.AdamCPR", {**_ADAM, **start, **options}, group=_CPR)


def _torchzero(name, **options):
    return Case(f"torchzero.m.{name}", options, build=torchzero_chain)


def _heavyball(name, **options):
    return Case(f"heavyball.{name}", {**_ADAM, **options}, dtype="float32")


def _heavyball_part(name, **options):
    case = _heavyball(f"chainable.{name}", weight_decay_to_ema=0.5, **options)
    return case._replace(build=heavyball_chain)


def torchzero_chain(module, params, options):
    """Adam, the module, the learning rate."""
    tz = importlib.import_module("torchzero")
    parts = [tz.m.Adam(0.9, 0.99, eps=1e-14), module(**options), tz.m.LR(PEAK)]
    if module.__name__ == "OrthoGrad":  # its place is before the preconditioner
        parts = [parts[1], parts[0], tz.m.WeightDecay(0.5), parts[2]]
    return tz.Optimizer(params, *parts)


def heavyball_chain(part, params, options):
    """The part, Adam and the step."""
    heavyball = importlib.import_module("heavyball")
    chain = heavyball.chainable
    defaults = heavyball.AdamW(params, lr=PEAK).defaults | {"ema_beta": 0.9, **options}
    fns = (part, chain.scale_by_adam, chain.apply_update)
    return chain.BaseOpt(params, defaults, fns=fns)


def around_adamw(wrapper, params, options):
    """A wrapper of torch's AdamW."""
    torch = importlib.import_module("torch")
    return wrapper(torch.optim.AdamW(params, **options))


def matrix_only(peer, params, options):
    """Only the matrix: the peer takes nothing else."""
    return peer(params[:1], **options)


def clipped_sgd(decay, params, options):
    """SGD whose matrix is decayed first, by a function of the weights."""
    torch = importlib.import_module("torch")
    sgd = torch.optim.SGD(params, lr=PEAK)

    def step():
        params[0].data.copy_(decay(params[0].data, **options))
        sgd.step()

    return SimpleNamespace(step=step, param_groups=sgd.param_groups)


def soda(wrapper, schedule, options):
    """Adam inside the wrapper."""
    optax = importlib.import_module("optax")
    return wrapper(optax.adam(schedule, 0.9, 0.99, 1e-14), **options)


def behind_adam(transform, schedule, options):
    """The transform in place of the learning rate."""
    optax = importlib.import_module("optax")
    adam = optax.scale_by_adam(0.9, 0.99, 1e-14)
    return optax.chain(adam, transform(schedule, **options))


_FLAT = {"orthogonal_gradient": "flattened"}
_CLIP = "emerging_optimizers.orthogonalized_optimizers.spectral_clipping_utils"
_HALF = {"lr": PEAK, "weight_decay": 0.5}

# The cases that follow the published rule.
RIGHT = {
    "adv_optm cautious": Case("adv_optm.AdamW_adv", {**_ADAMW, "cautious_wd": True}),
    "torchzero cautious": _torchzero("CautiousWeightDecay", weight_decay=0.5),
    "pytorch_optimizer AdamC": Case(
        "pytorch_optimizer.AdamC", _ADAMW, group={"normalized": True}
    ),
    "timm corrected": Case(
        "timm.optim.AdamWLegacy", {**_ADAMW, "corrected_weight_decay": True}
    ),
    "timm corrected SGD": Case(
        "timm.optim.SGDW", {**_HALF, "corrected_weight_decay": True}
    ),
    "heavyball AdamC": _heavyball("AdamC", weight_decay=0.5, max_lr=PEAK),
    "adv_optm centered": Case(
        "adv_optm.AdamW_adv",
        {**_ADAM, "centered_wd": 0.5, "centered_wd_mode": "full"},
    ),
    "heavyball to init": _heavyball_part("weight_decay_to_init"),
    "rollfast SODA": Case("rollfast.optim.soda.soda", {}, build=soda),
    "pytorch-cpr bound": _cpr("uniform", 5.0, kappa_update=0.3),
    "pytorch-cpr factor": _cpr("dependent", 1.1),
    "pytorch-cpr warm start": _cpr("warm_start", 3),
    "pytorch-cpr inflection": _cpr(
        "inflection_point", reg_step_size=1, reg_ema_decay=0.0, foreach=True
    ),
    "heavyball hyperball": _heavyball("HyperBallAdamW", weight_decay=0.5),
    "rollfast hyperball": Case(
        "rollfast.optim.hyperball.apply_hyperball",
        {"weight_decay": 0.5},
        build=behind_adam,
        dtype="float32",
    ),
    "emerging_optimizers oblique": Case(
        "emerging_optimizers.riemannian_optimizers.ObliqueSGD",
        {"lr": PEAK, "momentum": 0.9, "dim": 1},
        build=matrix_only,
    ),
    "timm Adan": Case("timm.optim.Adan", {**_ADAMW, "betas": (0.9, 0.0, 0.99)}),
    "pytorch_optimizer OrthoGrad": Case(
        "pytorch_optimizer.OrthoGrad", _ADAMW, build=around_adamw
    ),
    "adv_optm OrthoGrad": Case(
        "adv_optm.AdamW_adv", {**_ADAMW, **_FLAT}, dtype="float32"
    ),
    "adamp AdamP": Case("adamp.AdamP", {**_ADAMW, "delta": 1.5}),
    "timm AdamP": Case("timm.optim.AdamP", {**_ADAMW, "delta": 1.5}),
    "pytorch_optimizer AdamP": Case(
        "pytorch_optimizer.AdamP", {**_ADAMW, "delta": 1.5}
    ),
    "timm SGDP": Case("timm.optim.SGDP", {**_SGDP, "delta": 1.5}),
    "torchzero L1": _torchzero("WeightDecay", weight_decay=0.5, ord=1),
    "torchzero L4": _torchzero("WeightDecay", weight_decay=0.5, ord=4),
    "emerging_optimizers palm": Case(
        "emerging_optimizers.scalar_optimizers.Lion",
        {**_HALF, "betas": (0.9, 0.99), "weight_decay_method": "palm"},
    ),
    "emerging_optimizers clipped": Case(
        f"{_CLIP}.spectral_clipped_weight_decay",
        {"beta": 1.0, "c": 0.1},
        build=clipped_sgd,
        dtype="float32",
    ),
    "torch_optim_sparse SGD": Case(
        "torch_optim_sparse.SparserSGD", _HALF, build=matrix_only
    ),
}
# The cases that do something else.
WRONG = {
    "heavyball cautious": _heavyball(
        "AdamW", weight_decay=0.5, cautious_weight_decay=True
    ),
    "timm corrected, another peak": Case(
        "timm.optim.AdamWLegacy",
        {**_ADAMW, "lr": 0.1 * PEAK, "corrected_weight_decay": True},
    ),
    "pytorch_optimizer AdamC, default": Case("pytorch_optimizer.AdamC", _ADAMW),
    "adv_optm centered, default": Case(
        "adv_optm.AdamW_adv", {**_ADAM, "centered_wd": 0.5}
    ),
    "heavyball to average": _heavyball_part("weight_decay_to_ema"),
    "heavyball L1 to average": _heavyball_part("l1_weight_decay_to_ema"),
    "pytorch-cpr inflection, default": _cpr("inflection_point", reg_step_size=1),
    "torchzero OrthoGrad": _torchzero("OrthoGrad"),
    "adamp SGDP": Case("adamp.SGDP", {**_SGDP, "delta": 1.5}),
    "torchzero L3": _torchzero("WeightDecay", weight_decay=0.5, ord=3),
    "torch_optim_sparse AdamW": Case(
        "torch_optim_sparse.SparserAdamW", _ADAMW, build=matrix_only
    ),
    "torch_optim_sparse SGDW": Case(
        "torch_optim_sparse.SparserSGDW", _HALF, build=matrix_only
    ),
    "pytorch_optimizer SpectralSphere": Case(
        "pytorch_optimizer.SpectralSphere",
        {"lr": PEAK, "weight_decay": 0.0},
        build=matrix_only,
        dtype="float32",
    ),
}
CASES = RIGHT | WRONG


def problem(case):
    """Make the start values and one gradient per step.

    Args:
        case: A name in `CASES`. The peers for sparse gradients get a row of zeros in
            each step.

    Returns:
        The start values by leaf name, and gradients [STEPS, ...], all float64.
    """
    rng = np.random.default_rng(0)
    start = {leaf: rng.standard_normal(shape) for leaf, shape in SHAPES.items()}
    # The gradients push away from 0, so that a constraint of the norm is active.
    grads = {k: rng.standard_normal((STEPS, *x.shape)) - x for k, x in start.items()}
    for index, value in WITHOUT_GRADIENT.items():
        start["w"][index] = value
        grads["w"][:, *index] = 0.0
    if is_sparse(case):
        for step in range(STEPS):
            grads["w"][step, step % 3] = 0.0
    return start, grads


def is_sparse(case):
    """Whether the peer takes sparse gradients."""
    return CASES[case].peer.startswith("torch_optim_sparse")


def peer_of(case):
    """Import the class or function of a case."""
    module, _, name = CASES[case].peer.rpartition(".")
    package, _, part = module.partition(".")
    if part == "m":  # torchzero.m is an attribute, not a module
        return getattr(importlib.import_module(package).m, name)
    return getattr(importlib.import_module(module), name)


def torch_path(case):
    """Run a case of PyTorch; the parameters of each step, by leaf name."""
    torch = importlib.import_module("torch")
    _, options, build, group, dtype = CASES[case]
    start, grads = problem(case)
    dtype = getattr(torch, dtype)
    leaves = [torch.nn.Parameter(torch.tensor(x, dtype=dtype)) for x in start.values()]
    params = dict(zip(start, leaves, strict=True))
    if build is None:
        optimizer = peer_of(case)([{"params": leaves, **group}], **options)
    else:
        optimizer = build(peer_of(case), leaves, options)
    path = {leaf: [x.detach().numpy().copy()] for leaf, x in params.items()}
    for step in range(STEPS):
        for entries in optimizer.param_groups:
            entries["lr"] = LEARNING_RATES[step]
        for leaf, param in params.items():
            param.grad = torch.tensor(grads[leaf][step], dtype=dtype)
        if is_sparse(case):
            rows = torch.tensor([row for row in range(3) if row != step % 3])
            values = params["w"].grad[rows]
            params["w"].grad = torch.sparse_coo_tensor(rows[None], values, SHAPES["w"])
        optimizer.step()
        for leaf, param in params.items():
            path[leaf].append(param.detach().numpy().copy())
    return path


def optax_path(case):
    """Run a case of Optax; the parameters of each step, by leaf name."""
    jax, optax = map(importlib.import_module, ("jax", "optax"))
    jax.config.update("jax_enable_x64", True)
    _, options, build, _, dtype = CASES[case]
    start, grads = jax.tree.map(lambda x: jax.numpy.asarray(x, dtype), problem(case))
    rates = jax.numpy.asarray(LEARNING_RATES)
    assert build is not None
    optimizer = build(peer_of(case), lambda step: rates[step], options)
    params, state = start, optimizer.init(start)
    path = {leaf: [np.array(x)] for leaf, x in params.items()}
    for step in range(STEPS):
        gradient = {leaf: x[step] for leaf, x in grads.items()}
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        for leaf, x in params.items():
            path[leaf].append(np.array(x))
    return path


def record(case):
    """Run one case; one row per step with all leaves."""
    run = optax_path if CASES[case].peer.startswith("rollfast") else torch_path
    path = run(case)
    rows = [np.reshape(path[leaf], (STEPS + 1, -1)) for leaf in SHAPES]
    return np.concatenate(rows, axis=1).astype(CASES[case].dtype)


def split(rows):
    """The leaves of a recorded case, [STEPS + 1, ...] by name."""
    w, b = np.split(rows, [12], axis=1)
    return {"w": w.reshape(STEPS + 1, *SHAPES["w"]), "b": b}


def options_of_all():
    """Peer and options of each case, as JSON stores them."""
    kept = {name: [x.peer, x.options, x.group] for name, x in CASES.items()}
    return json.loads(json.dumps(kept))


def main():
    """Record every case, write the file and print a summary."""
    warnings.filterwarnings("ignore")
    # Without this HeavyBall compiles each step.
    importlib.import_module("heavyball").utils.compile_mode = None
    packages = sorted({x.peer.partition(".")[0] for x in CASES.values()} | {"torch"})
    versions = {name: importlib.metadata.version(name) for name in packages}
    arrays = {
        "versions": np.array(json.dumps(versions)),
        "options": np.array(json.dumps(options_of_all())),
    }
    for case in CASES:
        rows = record(case)
        if not np.isfinite(rows).all():
            raise FloatingPointError(f"case {case} is not finite")
        arrays[case] = rows
        print(f"{case:<36}{abs(rows[-1] - rows[0]).max():>8.3f}")
    save(OUTPUT, arrays)
    print(f"{OUTPUT.name} ({OUTPUT.stat().st_size / 1e3:.0f} kB), {versions}")


if __name__ == "__main__":
    main()
