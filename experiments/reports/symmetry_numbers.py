"""The numbers of `symmetry`, reduced from its stored arrays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.engine.store import read_measurements
from experiments.reports import markdown
from experiments.reports.symmetry_rows import (
    DECAY,
    Equilibrium,
    INVARIANT,
    KINDS,
    LEAST_WEIGHTS,
    MEASURES,
    Ratio,
    Scaled,
    STATISTICS,
    SymmetryNumbers,
    Training,
    VISIBLE,
)
from experiments.statistics import estimate, holm


Arrays = dict[str, np.ndarray]
GROUP = "a group, along its exponents"


def shown(optimizer: str) -> str:
    """The name of an optimizer in words."""
    return optimizer.replace("-", " ")


def read(folder: Path, name: str) -> Arrays:
    """The arrays of a measurement."""
    (stored,) = read_measurements(folder, name)
    return stored


def read_numbers(folder: Path, plan: dict[str, Any]) -> SymmetryNumbers:
    """Read and reduce the arrays. p is corrected over all comparisons of the study."""
    equilibria = [row for row in _equilibria(folder, plan)]
    training = [row for row in _training(folder, plan)]
    p = [row.difference.p for row in (*equilibria, *training)]
    corrected = iter(holm(p))
    return SymmetryNumbers(
        kinds=[row for network in plan["networks"] for row in _kinds(folder, network)],
        equilibria=[row._replace(p_holm=next(corrected)) for row in equilibria],
        training=[row._replace(p_holm=next(corrected)) for row in training],
        scaled=[row for name in plan["networks"] for row in _scaled(folder, name)],
        exact=[row for name in plan["networks"] for row in _exact(folder, name)],
        ratios=list(_ratios(folder, plan)),
        compared=[_compared(folder, name) for name in plan["networks"]],
        farthest=list(_farthest(folder, plan)),
        visible=[(name, _visible(folder, name)) for name in plan["networks"]],
    )


def _kinds(folder: Path, network: str) -> Iterator[tuple[str, ...]]:
    stored = read(folder, f"scaling-{network}")
    for kind in KINDS:
        chosen = stored["kinds"] == kind
        if chosen.any():
            names = sorted({_short(path) for path in stored["paths"][chosen].tolist()})
            weights = str(stored["sizes"][chosen].sum())
            yield network, kind, str(chosen.sum()), weights, markdown.join(names)


def _short(path: str) -> str:
    """A path without the numbers of the blocks."""
    return "/".join(part for part in path.split("/") if not part.isdigit())


# --- (a) --------------------------------------------------------------------------


def predicted_angles(points: list[list[float]], beta: float) -> np.ndarray:
    """√(2γλ(1 - β)/(1 + β)) for each point (γ, λ)."""
    products = np.prod(points, axis=1)
    return np.sqrt(2 * products * (1 - beta) / (1 + beta))


def ratios(stored: Arrays, points: list[list[float]], beta: float) -> Arrays:
    """Measured / predicted, [points, starts, seeds, leaves]; NaN becomes infinity."""
    norm = stored["weight_norm"]
    angle = predicted_angles(points, beta)[:, None, None, None]
    found = {
        "angle": stored["angle"] / angle,
        "norm": norm / stored["equilibrium_norm"],
        "starts": norm[:, 1:] / norm[:, :1],
    }
    # The growth of a norm can be negative; then it has no equilibrium.
    return {name: np.nan_to_num(x, nan=np.inf) for name, x in found.items()}


def groups_of_leaves(stored: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Which leaves are compared: invariant ones, and joint or seen ones."""
    large = stored["sizes"] >= LEAST_WEIGHTS
    kinds = stored["kinds"]
    return large & (kinds == INVARIANT), large & np.isin(kinds, ("joint", "seen"))


def _compared(folder: Path, network: str) -> tuple[str, int, int]:
    invariant, other = groups_of_leaves(read(folder, f"scaling-{network}"))
    return network, int(invariant.sum()), int(other.sum())


def _equilibria(folder: Path, plan: dict[str, Any]) -> Iterator[Equilibrium]:
    for network in plan["networks"]:
        for optimizer, points in plan["points"].items():
            stored = read(folder, f"equilibrium-{network}-{optimizer}")
            found = ratios(stored, points, plan["betas"][optimizer])
            for measure in MEASURES:
                yield _compare(
                    f"{network} with {shown(optimizer)}",
                    measure,
                    found[measure],
                    stored,
                )


def _compare(
    setting: str, measure: str, ratio: np.ndarray, stored: Arrays
) -> Equilibrium:
    medians, by_seed, spans = [], [], []
    for leaves in groups_of_leaves(stored):
        chosen = ratio[..., leaves]
        deviation = np.abs(np.log(chosen))
        medians.append(float(np.median(deviation)))
        by_seed.append(np.median(deviation, axis=(0, 1, 3)))
        spans.append((float(chosen.min()), float(chosen.max())))
    difference = estimate(by_seed[1] - by_seed[0])
    return Equilibrium(
        setting, measure, medians[0], spans[0], medians[1], spans[1], difference
    )


def _ratios(folder: Path, plan: dict[str, Any]) -> Iterator[Ratio]:
    for network in plan["networks"]:
        for optimizer, points in plan["points"].items():
            stored = read(folder, f"equilibrium-{network}-{optimizer}")
            found = ratios(stored, points, plan["betas"][optimizer])
            rate, decay = np.transpose(points)[:, :, None, None, None]
            free = stored["weight_norm"] / np.sqrt(stored["sizes"] * rate / (2 * decay))
            setting = f"{network} with {shown(optimizer)}"
            is_adam = optimizer == "AdamW"
            for kind in KINDS:
                chosen = stored["kinds"] == kind
                if chosen.any():
                    x, y, z = (
                        _median_and_range(each[..., chosen])
                        for each in (found["angle"], found["norm"], free)
                    )
                    yield Ratio(setting, kind, x, y, z if is_adam else None)
            if "group/angle" in stored:
                group = {n: stored[f"group/{n}"] for n in STATISTICS}
                found = ratios(group, points, plan["betas"][optimizer])
                x, y = (_median_and_range(found[n]) for n in ("angle", "norm"))
                yield Ratio(setting, "joint group as one leaf", x, y, None)


def _farthest(
    folder: Path, plan: dict[str, Any]
) -> Iterator[tuple[str, str, float, float]]:
    """By setting: the invariant leaf whose median angle is farthest from prediction."""
    for network in plan["networks"]:
        for optimizer, points in plan["points"].items():
            stored = read(folder, f"equilibrium-{network}-{optimizer}")
            found = ratios(stored, points, plan["betas"][optimizer])
            invariant, _ = groups_of_leaves(stored)
            angle, norm = (np.median(found[n], (0, 1, 2)) for n in ("angle", "norm"))
            leaf = int(np.argmax(np.where(invariant, np.abs(np.log(angle)), -1.0)))
            setting = f"{network} with {shown(optimizer)}"
            yield setting, str(stored["paths"][leaf]), angle[leaf], norm[leaf]


def _median_and_range(x: np.ndarray) -> tuple[float, float, float]:
    return float(np.median(x)), float(x.min()), float(x.max())


# --- (b) --------------------------------------------------------------------------


def classes(stored: Arrays) -> dict[str, np.ndarray]:
    """Which directions belong together: leaves by kind, groups, all leaves."""
    names, paths = stored["directions"], stored["paths"]
    kinds = dict(zip(paths.tolist(), stored["kinds"].tolist(), strict=True))
    of_name = np.array([kinds.get(name, "") for name in names.tolist()])
    found = {kind: of_name == kind for kind in KINDS}
    found[GROUP] = np.char.startswith(names, "group ")
    found |= {name: names == name for name in names.tolist() if name.startswith("all ")}
    return {name: chosen for name, chosen in found.items() if chosen.any()}


def _scaled(folder: Path, network: str) -> Iterator[Scaled]:
    stored = read(folder, f"scaling-{network}")
    half = int(np.flatnonzero(stored["factors"] == 0.5)[0])
    leaves = len(stored["paths"])  # the first directions
    for what, chosen in classes(stored).items():
        logits = stored["logits"][:, chosen, half]
        steps = ()
        if chosen[:leaves].any():
            each = (stored[f"step/{o}"][:, chosen[:leaves]] for o in ("SGD", "Adam"))
            steps = tuple(map(_median_and_range, each))
        yield Scaled(
            network,
            what,
            logits=float(np.median(logits)),
            logits_max=float(logits.max()),
            limit_max=float(stored["logits without eps"][:, chosen, half].max()),
            loss=float(np.median(stored["loss"][:, chosen, half])),
            steps=steps,
        )


def _visible(folder: Path, network: str) -> float:
    """The largest c at which all invariant leaves together change the logits by 1 %."""
    stored = read(folder, f"scaling-{network}")
    change = stored["logits"][:, classes(stored)["all invariant leaves"]]
    above = np.median(change, (0, 1)) > VISIBLE
    return float(np.max(stored["factors"][above], initial=0.0))


# --- (c) --------------------------------------------------------------------------


def _training(folder: Path, plan: dict[str, Any]) -> Iterator[Training]:
    for network in plan["networks"]:
        for base in plan["rates"]:
            stored = read(folder, f"training-{network}-{base}")
            yield from _arms(network, stored)


def _arms(network: str, stored: Arrays) -> Iterator[Training]:
    names = zip(*(stored[x].tolist() for x in ("base", "leaves", "arm")), strict=True)
    rows = {name: number for number, name in enumerate(names)}
    for (base, leaves, arm), row in rows.items():
        if arm != DECAY:
            decay = rows[base, leaves, DECAY]
            difference = stored["final"][row] - stored["final"][decay]
            shares = np.nan_to_num(
                stored["gap"][row] / stored["effect"][row], nan=np.inf
            )
            yield Training(network, base, leaves, arm, estimate(difference), shares)


def _exact(folder: Path, network: str) -> Iterator[tuple[str, str, float]]:
    stored = read(folder, f"exact-{network}")
    rows = zip(stored["base"].tolist(), stored["difference"].tolist(), strict=True)
    for base, difference in rows:
        yield network, base, difference
