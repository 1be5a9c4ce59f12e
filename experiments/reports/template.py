"""The parts that all reports share: question, verdict, provenance, protocol, files."""

from pathlib import Path
from typing import Any

from experiments import files, search
from experiments.engine.store import read_manifest
from experiments.files import revision_of
from experiments.protocol import FINAL, ProtocolPlan, SCREENING, TUNING, VALIDATION
from experiments.reports.markdown import listed
from experiments.reports.results import AXES, axes_of, Results
from experiments.statistics import MIN_VALUES


CLASSIFICATION = "experiments.tasks.Classification"
MLP = "experiments.models.mlp.mlp"
STAGES = (TUNING, SCREENING, VALIDATION, FINAL)
REPORT = "`python -m experiments report` and the folder"


def save_report(
    folder: Path,
    title: str,
    question: str,
    verdict: str,
    *parts: str,
    stored: str,
    remake: str | None = REPORT,
) -> str:
    """Write the report from its parts; returns the verdict.

    `stored` lists the files of the results. `remake` is the command that makes the
    report from these files; None if only the command of the manifest does.
    """
    manifest = read_manifest(folder)
    numbers = f"`{manifest['command']}`"
    made = f"Made again from them by {remake}; the numbers by {numbers}."
    made = f"Made by {numbers}." if remake is None else made
    closing = f"Files: {stored}, `manifest.json`. {made}"
    begin = header(title, question, verdict, manifest)
    files.write_text(folder / "report.md", "\n\n".join([begin, *parts, closing]) + "\n")
    return f"Verdict. {verdict}"


def header(title: str, question: str, verdict: str, manifest: dict[str, Any]) -> str:
    """Title, question, verdict and the table of the provenance."""
    device, seconds = manifest["device"], manifest["seconds"]
    mixed = manifest.get("mixed")
    versions = ", ".join(f"{k} {v}" for k, v in manifest["versions"].items())
    data = ", ".join(
        f"`{name.removeprefix('experiments.data.')}` {checksum[:12]}"
        for name, checksum in manifest["data"].items()
    )
    rows = [
        ("command", f"`{manifest['command']}`"),
        ("plan", manifest["hash"]),
        ("cells side by side", _parallel(manifest)),
        ("device", f"{device['count']} × {device['kind']}"),
        (
            "runs, seconds",
            f"{manifest['runs']}, {seconds['run']:.0f} and {seconds['compile']:.0f} of "
            "compilation",
        ),
        ("data (SHA-256)", data or "none"),
        ("versions", versions),
        ("revision", _revisions(manifest)),
        *([("mixed", f"other {'; other '.join(mixed)}")] if mixed else []),
    ]
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows)])
    return f"# {title}\n\n**Question.** {question}\n\n**Verdict.** {verdict}\n\n{table}"


def _parallel(manifest: dict[str, Any]) -> str:
    """The numbers of parallel cells: memory may halve them, other plans may differ."""
    found = ", ".join(map(str, manifest["cells side by side"])) or "none"
    return f"{found} (plan: {manifest['plan']['chunk']})"


def _revisions(manifest: dict[str, Any]) -> str:
    """Git revisions of all processes that wrote results; all, if they differ."""
    return ", ".join(sorted({revision_of(each) for each in manifest["made by"]}))


def protocol_section(results: Results) -> str:
    """How points were chosen and compared, from the plan and from what was run."""
    plan = results.plan
    seeds = {name: _span(plan.seeds(name)) for name in STAGES}
    grids = {len(search.coarse_grid(entry.axes)) for entry in plan.entries}
    few = f" With fewer than {MIN_VALUES} seeds there are means and no intervals."
    return f"""\
## Protocol

{_tasks(plan)}
- **Tuning.** A coarse grid of powers of two for each arm on each task
  ({_range(grids)} points), on {seeds[TUNING]}. Then {plan.rounds} rounds of up to
  {plan.added} more points each, around the best ones, until these are bracketed: one
  and two steps on either side were tried on every axis, and none is better beyond the
  noise.
- **Screening.** The best {plan.screened} points of every arm again, on
  {seeds[SCREENING]}: most of those that were lucky drop out.
- **Validation.** The best {plan.candidates} of these by both again, on
  {seeds[VALIDATION]}. {_choosing(plan)}
- **Equal number of runs.** {_runs(results)}
- **Report.** The chosen point on {seeds[FINAL]}: test, paired by seed. {_seeded(plan)}
  The test part is apart, and no choice sees it.
- **Intervals** are 95 %, rounded outwards. The first is about the final seeds, given
  the choices (bootstrap-t). The second contains the choice: the seeds of validation are
  resampled, and the choice is made again. p-values flip the signs of the paired
  differences, with Holm's correction over all {len(plan.contrasts)} contrasts of the
  study. "Clearly" means: both intervals exclude 0, and the corrected p is below 0.05.\
{few if plan.final_seeds < MIN_VALUES else ""}"""


def _tasks(plan: ProtocolPlan) -> str:
    """A line for each task, or for the entries without a task that train the same."""
    found: dict[tuple[str | None, str], list[str]] = {}
    for entry in plan.entries:
        task = entry.labels.get("task")
        names = found.setdefault((task, _setup_text(entry.config)), [])
        names.append(entry.name)
    return "\n".join(
        f"- **{listed(names) if task is None else task}.** {text}"
        for (task, text), names in found.items()
    )


def _choosing(plan: ProtocolPlan) -> str:
    """The score that decides between points, and the rule for ties."""
    count = plan.measure.count is not None
    scores, equal = ("counts of right answers", "counts") if count else ("scores",) * 2
    orders = [[axis.name for axis in entry.axes] for entry in plan.entries]
    longest = max(orders, key=len)
    if all(order == [n for n in longest if n in order] for order in orders):
        first, *rest = (f"smaller {AXES.get(name, name)}" for name in longest)
        wins = ", ".join([f"the {first} wins", *(f"then the {each}" for each in rest)])
    else:
        wins = "the smaller value wins, axis by axis in the order of the entry"
    return f"Their {scores} alone choose. Between equal {equal}\n  {wins}."


def _seeded(plan: ProtocolPlan) -> str:
    """What a seed decides."""
    configs: list[Any] = [entry.config for entry in plan.entries]  # descriptions
    if all(_is_classification(config["setup"]) for config in configs):
        return (
            "A seed\n  decides split, wrong labels, initial weights and batch order, "
            "the same for all arms.\n  Every seed splits the same pool anew."
        )
    return "A seed\n  decides all that is random in a run, the same for all arms."


def _runs(results: Results) -> str:
    """The number of runs of the arms, by the axes that they tune."""
    by_axes: dict[tuple[str, ...], set[int]] = {}
    for outcome in results.outcomes.values():
        by_axes.setdefault(tuple(axes_of([outcome.entry])), set()).add(outcome.runs)
    texts = [
        f"{_range(runs)} for each arm that tunes {_tuned(axes)}"
        for axes, runs in sorted(by_axes.items(), key=lambda item: -len(item[0]))
    ]
    return f"Tuning, screening and validation together: {listed(texts)}."


def _tuned(axes: tuple[str, ...]) -> str:
    names = [AXES.get(name, name) for name in axes]
    if axes == ("learning_rate",):
        return "the learning rate alone"
    return f"{names[0]} alone" if len(names) == 1 else listed(names)


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def _span(seeds: range) -> str:
    return f"seeds {seeds[0]} to {seeds[-1]}"


def _setup_text(config: Any) -> str:
    """A task in words, from a description of what is trained."""
    setup, epochs = config["setup"], config["epochs"]
    if not _is_classification(setup):
        return f"{_name(setup).split('.')[-1]}; {epochs} epochs."
    source = _name(setup["data"]).split(".")[-2]
    return (
        f"{source.replace('_', ' ')}; {_model(setup['model'])}; "
        f"{setup['train_size']} examples, "
        f"{100 * setup['label_noise']:.0f} % of their labels redrawn; "
        f"{epochs} epochs of batches of {setup['batch']}."
    )


def _name(description: Any) -> str:
    """Of the function or class that is described."""
    if isinstance(description, str):
        return description
    return description["is"] if "is" in description else _name(description["call"])


def _is_classification(setup: Any) -> bool:
    return _name(setup) == CLASSIFICATION


def _model(model: Any) -> str:
    """The layers of a perceptron; of another model its name."""
    if _name(model) != MLP or not model["with"]:
        return f"model {_name(model).split('.')[-1]}"
    sizes, *layernorm = model["with"]
    norm = ", LayerNorm" if any([*layernorm, model["named"].get("norm")]) else ""
    return f"layers {'-'.join(map(str, sizes))}{norm}"
