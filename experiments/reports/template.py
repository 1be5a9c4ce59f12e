"""Reports are Markdown templates that are filled with numbers, tables and text."""

import json
from pathlib import Path
from typing import Any

from experiments import files, search
from experiments.engine.store import read_manifest
from experiments.files import revision_of
from experiments.protocol import FINAL, ProtocolPlan, SCREENING, TUNING, VALIDATION
from experiments.reports import markdown
from experiments.reports.results import AXIS_NAMES, Results, tuned_axes
from experiments.statistics import MIN_VALUES


CLASSIFICATION = "experiments.tasks.Classification"
LANGUAGE = "experiments.tasks.Language"
MLP = "experiments.models.mlp.mlp"


def save_report(folder: Path, template: str, verdict: str, **values: Any) -> str:
    """Fill a template and write report.md; returns the verdict."""
    manifest = read_manifest(folder)
    made_by = (
        f"`manifest.json`, made by `{manifest['command']}`. "
        "`python -m experiments report DIR` writes this report from them again."
    )
    text = markdown.fill(
        template,
        verdict=verdict,
        provenance=provenance_table(manifest),
        plan=manifest["plan"],
        command=manifest["command"],
        made_by=made_by,
        **values,
    )
    files.write_text(folder / "report.md", f"{text}\n")
    return f"Verdict. {verdict}"


def provenance_table(manifest: dict[str, Any]) -> str:
    """What made the results: command, plan, devices, data, versions, revision."""
    device, seconds = manifest["device"], manifest["seconds"]
    # Fewer cells than planned ran in parallel if the memory was too small for them.
    parallel = ", ".join(map(str, manifest["cells side by side"])) or "none"
    versions = [f"{name} {version}" for name, version in manifest["versions"].items()]
    data = [f"`{_data_name(k)}` {x[:12]}" for k, x in manifest["data"].items()]
    rows = {
        "command": f"`{manifest['command']}`",
        "plan": manifest["hash"],
        "cells in parallel": f"{parallel} (plan: {manifest['plan']['chunk']})",
        "device": f"{device['count']} × {device['kind']}",
        "runs": str(manifest["runs"]),
        "seconds": f"{seconds['run']:.0f}, compilation {seconds['compile']:.0f}",
        "data (SHA-256)": ", ".join(data) or "none",
        "versions": ", ".join(versions),
        "revision": ", ".join(sorted({revision_of(x) for x in manifest["made by"]})),
    }
    if mixed := manifest.get("mixed"):
        rows["mixed"] = f"other {'; other '.join(mixed)}"
    lines = [f"| {name} | {text} |" for name, text in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _data_name(description: str) -> str:
    """Such as teacher.load(3437), for a function or the JSON text of a partial."""
    if not description.startswith("{"):
        return description.removeprefix("experiments.data.")
    partial = json.loads(description)
    named = [f"{name}={value}" for name, value in partial["named"].items()]
    numbers = ", ".join([*map(str, partial["with"]), *named])
    return f"{_data_name(partial['call'])}({numbers})"


def protocol_section(results: Results, contrasts: int | None = None) -> str:
    """How points were chosen and compared, from the plan and from the runs.

    `contrasts` is the number in Holm's correction, if there are several protocols.
    """
    plan = results.plan
    seeds = {
        stage: f"seeds {plan.seeds(stage)[0]} to {plan.seeds(stage)[-1]}"
        for stage in (TUNING, SCREENING, VALIDATION, FINAL)
    }
    few = f" Fewer than {MIN_VALUES} seeds give means without intervals."
    return markdown.fill(
        "protocol",
        **seeds,
        plan=plan,
        tasks=_tasks(plan),
        grids=_range({len(search.coarse_grid(entry.axes)) for entry in plan.entries}),
        choosing=_choosing(plan),
        runs=_runs(results),
        seeds=_seeds(plan),
        contrasts=len(plan.contrasts) if contrasts is None else contrasts,
        few=few if plan.final_seeds < MIN_VALUES else "",
    )


def _tasks(plan: ProtocolPlan) -> str:
    """A line for each task; entries without a task share a line by their setup."""
    lines: dict[tuple[str | None, str], list[str]] = {}
    for entry in plan.entries:
        key = entry.labels.get("task"), describe_setup(entry.config)
        lines.setdefault(key, []).append(entry.name)
    return "\n".join(
        f"- **{markdown.join(names) if task is None else task}.** {text}"
        for (task, text), names in lines.items()
    )


def _choosing(plan: ProtocolPlan) -> str:
    """Which score chooses, and the rule for ties."""
    scores = "scores" if plan.measure.count is None else "counts of correct answers"
    orders = [[axis.name for axis in entry.axes] for entry in plan.entries]
    longest = max(orders, key=len)
    if all(order == [n for n in longest if n in order] for order in orders):
        names = [AXIS_NAMES.get(name, name) for name in longest]
        rule = ", then the ".join(f"smaller {name}" for name in names)
    else:
        rule = "smaller value, axis by axis in the order of the entry"
    return f"Only these {scores} choose. Ties go to the {rule}."


def _seeds(plan: ProtocolPlan) -> str:
    """What a seed decides."""
    configs: list[Any] = [entry.config for entry in plan.entries]  # descriptions
    if all(_name(config["setup"]) == CLASSIFICATION for config in configs):
        return (
            "A seed decides the split, the wrong labels, the initial weights and the "
            "batch order, the same for all arms. Each seed splits the same pool again."
        )
    return "A seed decides all that is random in a run, the same for all arms."


def _runs(results: Results) -> str:
    """The number of runs of the arms, by the axes that they tune."""
    runs: dict[tuple[str, ...], set[int]] = {}
    for outcome in results.outcomes.values():
        axes = tuple(AXIS_NAMES.get(a, a) for a in tuned_axes([outcome.entry]))
        runs.setdefault(axes, set()).add(outcome.runs)
    texts = []
    for axes, counts in sorted(runs.items(), key=lambda item: -len(item[0])):
        tuned = f"only {axes[0]}" if len(axes) == 1 else markdown.join(axes)
        texts.append(f"{_range(counts)} for each arm that tunes {tuned}")
    return f"Runs of tuning, screening and validation together: {markdown.join(texts)}."


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def describe_setup(config: Any) -> str:
    """A task in words, from a description of its configuration."""
    setup, epochs = config["setup"], config["epochs"]
    if _name(setup) == LANGUAGE:
        return (
            f"{_text(setup['data'])}; "
            f"{_model(setup['model'])}; {epochs * setup['steps_per_epoch']} steps of "
            f"{setup['batch']} windows of {setup['length']} characters."
        )
    if _name(setup) != CLASSIFICATION:
        return f"{_name(setup).split('.')[-1]}; {epochs} epochs."
    # The module is the name of the data: experiments.data.fashion_mnist.load.
    data = _name(setup["data"]).split(".")[-2].replace("_", " ")
    return (
        f"{data}; {_model(setup['model'])}; {setup['train_size']} examples, "
        f"{100 * setup['label_noise']:.0f} % of their labels redrawn; "
        f"{epochs} epochs of batches of {setup['batch']}."
    )


def _text(data: Any) -> str:
    """The size and the name of a text, from the description of its loader."""
    # The loader is a function, or a partial of one.
    named = {} if isinstance(data, str) else data["named"]
    size = named.get("train_size")
    name = _name(data).split(".")[-1].replace("_", " ").capitalize()
    return f"{'all' if size is None else size} training characters of {name}"


def _model(model: Any) -> str:
    """The layers of a perceptron; the name of another model."""
    if _name(model) != MLP or not model["with"]:
        return f"model {_name(model).split('.')[-1]}"
    # The arguments of mlp are the sizes and `norm`, by position or by name.
    sizes, norm = model["with"][0], model["named"].get("norm", False)
    if len(model["with"]) > 1:
        norm = model["with"][1]
    layers = "-".join(map(str, sizes))
    return f"layers {layers}, LayerNorm" if norm else f"layers {layers}"


def _name(description: Any) -> str:
    """The name of the function or class that is described."""
    if isinstance(description, str):
        return description
    return description["is"] if "is" in description else _name(description["call"])
