"""How every report begins and ends: question, answer, protocol, where it is from."""

from pathlib import Path
from typing import Any

from experiments import files, search
from experiments.engine.store import read_manifest
from experiments.files import revision_of
from experiments.protocol import FINAL, SCREENING, TUNING, VALIDATION
from experiments.reports.markdown import listed
from experiments.reports.results import Results
from experiments.statistics import FEWEST


STAGES = (TUNING, SCREENING, VALIDATION, FINAL)


REPORT = "`python -m experiments report` and the folder"


def write(
    folder: Path,
    title: str,
    question: str,
    verdict: str,
    *parts: str,
    stored: str,
    again: str | None = REPORT,
) -> str:
    """The whole report, made of its parts and `stored` files; returns the verdict.

    `again` makes the report from the files; None if only the manifest's command does.
    """
    manifest = read_manifest(folder)
    numbers = f"`{manifest['command']}`"
    made = f"Made again from them by {again}; the numbers by {numbers}."
    made = f"Made by {numbers}." if again is None else made
    closing = f"Files: {stored}, `manifest.json`. {made}"
    begin = opening(title, question, verdict, manifest)
    files.write_text(folder / "report.md", "\n\n".join([begin, *parts, closing]) + "\n")
    return f"Verdict. {verdict}"


def opening(title: str, question: str, verdict: str, manifest: dict[str, Any]) -> str:
    """Title, question, verdict and the table of what the numbers were made with."""
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
        ("cells side by side", _widths(manifest)),
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


def _widths(manifest: dict[str, Any]) -> str:
    """Those that occur: memory halves them, and another plan may have had others."""
    found = ", ".join(map(str, manifest["cells side by side"])) or "none"
    return f"{found} (plan: {manifest['chunk']})"


def _revisions(manifest: dict[str, Any]) -> str:
    """Of all processes that made pieces: more than one is said."""
    return ", ".join(sorted({revision_of(each) for each in manifest["made by"]}))


def protocol(results: Results) -> str:
    """How points were chosen and compared, from the plan and from what was run."""
    plan = results.plan
    seeds = {name: _span(plan.seeds(name)) for name in STAGES}
    trained = {e.labels["task"]: _trained(e.static) for e in plan.entries}
    tasks = "\n".join(f"- **{name}.** {text}" for name, text in trained.items())
    grids = {len(search.coarse(entry.axes)) for entry in plan.entries}
    few = f" With fewer than {FEWEST} seeds there are means and no intervals."
    return f"""\
## Protocol

{tasks}
- **Tuning.** A coarse grid of powers of two for each arm on each task
  ({_range(grids)} points), on {seeds[TUNING]}. Then {plan.rounds} rounds of up to
  {plan.added} more points each, around the best ones, until these are bracketed: one
  and two steps on either side were tried on every axis.
- **Screening.** The best {plan.screened} points of every arm again, on
  {seeds[SCREENING]}: most of those that were lucky drop out.
- **Validation.** The best {plan.candidates} of these by both again, on
  {seeds[VALIDATION]}. Their counts of right answers alone choose. Between equal counts
  the smaller λ wins, then the smaller learning rate.
- **Equal number of runs.** {_runs(results)}
- **Report.** The chosen point on {seeds[FINAL]}: test, paired by seed. A seed
  decides split, wrong labels, initial weights and batch order, the same for all arms.
  Every seed splits the same pool anew. The test part is apart, and no choice sees it.
- **Intervals** are 95 %, rounded outwards. The first is about the final seeds, given
  the choices (bootstrap-t). The second contains the choice: the seeds of validation are
  resampled, and the choice is made again. p-values flip the signs of the paired
  differences, with Holm's correction over all {len(plan.contrasts)} contrasts of the
  study. "Clearly" means: both intervals exclude 0, and the corrected p is below 0.05.\
{few if plan.final_seeds < FEWEST else ""}"""


def _runs(results: Results) -> str:
    """How many runs the arms had, by what they tune."""
    by_axes: dict[int, set[int]] = {}
    for outcome in results.outcomes.values():
        by_axes.setdefault(len(outcome.entry.axes), set()).add(outcome.runs)
    names = {
        1: "that tunes the learning rate alone",
        2: "that tunes learning rate and λ",
    }
    said = [
        f"{_range(runs)} for each arm {names[count]}"
        for count, runs in sorted(by_axes.items(), reverse=True)
    ]
    return f"Tuning, screening and validation together: {listed(said)}."


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def _span(seeds: range) -> str:
    return f"seeds {seeds[0]} to {seeds[-1]}"


def _trained(static: Any) -> str:
    """A task in words, from a description of what is trained."""
    recipe = static["recipe"]
    data = recipe["data"]
    source = (data if isinstance(data, str) else data["call"]).split(".")[-2]
    sizes, *layernorm = recipe["model"]["with"]
    return (
        f"{source.replace('_', ' ')}; layers {'-'.join(map(str, sizes))}"
        f"{', LayerNorm' if any(layernorm) else ''}; {recipe['train_size']} examples, "
        f"{100 * recipe['label_noise']:.0f} % of their labels redrawn; "
        f"{static['epochs']} epochs of batches of {recipe['batch']}."
    )
