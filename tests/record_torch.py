"""Record PyTorch optimizer trajectories as a reference for the parity tests.

Each case runs one ``torch.optim`` optimizer for 100 steps on a small, badly
scaled least-squares problem, in float64 on the CPU, one tensor at a time
(``foreach=False``). ``data/torch_trajectories.npz`` keeps, for every case:

    <case>/w, <case>/b              parameters, [101, 4, 3] and [101, 3]; row 0 is
                                    the start, row t + 1 follows step t
    <case>/grad_w, <case>/grad_b    gradients of the loss alone (no weight decay) at
                                    row t of the parameters, [100, 4, 3], [100, 3]
    <case>/lr                       learning rate used by step t, [100]
    <case>/optimizer, <case>/kwargs class name, and its arguments as a JSON string
    torch_version                   the PyTorch that made the file

The file is committed: the default tests read it and need no torch. It was made
with torch 2.13.0; to make it again, bit for bit on the same kind of machine:

    pip install torch==2.13.0 numpy
    python tests/record_torch.py
"""

import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np


OUTPUT = Path(__file__).parent / "data" / "torch_trajectories.npz"
STEPS = 100
BATCH = 8
# Powers of ten, with the largest clipped so that SGD at lr=0.05 stays stable.
FEATURE_SCALES = np.array([0.01, 0.1, 1.0, 3.0])

_SGD = {"weight_decay": 0.1}
_MOMENTUM = {"lr": 0.02, "momentum": 0.9, **_SGD}
_RMSPROP = {"lr": 0.01, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0.1}
_ADAM = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}

# Case name -> (class in torch.optim, its keyword arguments).
CASES = {
    "sgd": ("SGD", {"lr": 0.05, **_SGD}),
    "sgd_momentum": ("SGD", _MOMENTUM),
    "sgd_nesterov": ("SGD", {**_MOMENTUM, "nesterov": True}),
    "rmsprop": ("RMSprop", _RMSPROP),
    "rmsprop_momentum": ("RMSprop", {**_RMSPROP, "lr": 0.002, "momentum": 0.9}),
    "rmsprop_centered": ("RMSprop", {**_RMSPROP, "centered": True}),
    "rmsprop_cosine": ("RMSprop", _RMSPROP),
    "adam": ("Adam", _ADAM),
    "adam_decoupled": ("Adam", {**_ADAM, "decoupled_weight_decay": True}),
    "adamw": ("AdamW", _ADAM),
    "adamw_rms": ("AdamW", {**_ADAM, "betas": (0.0, 0.99)}),
    "adamw_cosine": ("AdamW", _ADAM),
}
# Cases whose learning rate follows `cosine`; the others keep it constant.
SCHEDULED = frozenset({"rmsprop_cosine", "adamw_cosine"})


def constant(step):
    """Factor on the learning rate at a step: always one."""
    return 1.0


def cosine(step):
    """Factor on the learning rate at a step: half a cosine, from one to zero."""
    return 0.5 * (1 + math.cos(math.pi * step / STEPS))


def problem(steps=STEPS):
    """Make the start values and one fresh, noisy minibatch per step.

    Args:
        steps: Number of minibatches; a shorter run sees the first of a longer one.

    Returns:
        The start values by leaf name, inputs [steps, BATCH, 4] and targets
        [steps, BATCH, 3], all float64.
    """
    rng = np.random.default_rng(0)
    start = {"w": rng.standard_normal((4, 3)), "b": rng.standard_normal(3)}
    w, b = rng.standard_normal((4, 3)), rng.standard_normal(3)
    draws = rng.standard_normal((steps, BATCH, 7))
    inputs, noise = draws[..., :4] * FEATURE_SCALES, draws[..., 4:]
    return start, inputs, inputs @ w + b + noise


def record(case, steps=STEPS):
    """Run one case in PyTorch.

    Args:
        case: A key of `CASES`.
        steps: Number of optimizer steps.

    Returns:
        Arrays by name: parameters `w`, `b` [steps + 1, ...], gradients `grad_w`,
        `grad_b` [steps, ...] and the learning rate `lr` [steps].
    """
    import torch  # pyright: ignore[reportMissingImports]

    name, kwargs = CASES[case]
    start, inputs, targets = problem(steps)
    params = {leaf: torch.tensor(x, requires_grad=True) for leaf, x in start.items()}
    optimizer = getattr(torch.optim, name)(params.values(), foreach=False, **kwargs)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, cosine if case in SCHEDULED else constant
    )
    rows = {leaf: [x] for leaf, x in start.items()}
    rows |= {"grad_w": [], "grad_b": [], "lr": []}
    for x, y in zip(torch.tensor(inputs), torch.tensor(targets), strict=True):
        optimizer.zero_grad()
        error = x @ params["w"] + params["b"] - y
        (0.5 * error.square().sum(1).mean()).backward()
        rows["lr"].append(optimizer.param_groups[0]["lr"])
        for leaf, param in params.items():
            rows[f"grad_{leaf}"].append(param.grad.numpy().copy())
        optimizer.step()
        schedule.step()
        for leaf, param in params.items():
            rows[leaf].append(param.detach().numpy().copy())
    return {key: np.array(values) for key, values in rows.items()}


def save(path, arrays):
    """Write arrays to an npz file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, path)


def main():
    """Record every case, write the file and print a summary."""
    import torch  # pyright: ignore[reportMissingImports]

    arrays = {"torch_version": np.array(torch.__version__)}
    print(f"{'case':<18}{'optimizer':<11}{'last lr':>9}{'max |move|':>12}")
    for case, (name, kwargs) in CASES.items():
        run = record(case)
        if not all(np.isfinite(x).all() for x in run.values()):
            raise FloatingPointError(f"case {case} is not finite")
        arrays |= {f"{case}/{key}": x for key, x in run.items()}
        arrays[f"{case}/optimizer"] = np.array(name)
        arrays[f"{case}/kwargs"] = np.array(json.dumps(kwargs))
        move = max(abs(run[leaf][-1] - run[leaf][0]).max() for leaf in ("w", "b"))
        print(f"{case:<18}{name:<11}{run['lr'][-1]:>9.2g}{move:>12.3f}")
    save(OUTPUT, arrays)
    print(f"torch {torch.__version__}: {OUTPUT} ({OUTPUT.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
