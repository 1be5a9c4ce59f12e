"""How every report begins and ends: the question, the answer, and where it is from."""

from typing import Any

from experiments.files import revision_of


INTERVALS = """\
- **Intervals** are 95 %, bootstrap-t over seeds, one for each comparison by itself. The
  p-values are of the test that flips the signs of the paired differences, corrected
  with Holm's method for all comparisons of a table; a difference is clear only if its
  interval excludes 0 and that p is below 0.05."""


def opening(title: str, question: str, verdict: str, manifest: dict[str, Any]) -> str:
    """Title, question, verdict and the table of what the numbers were made with."""
    device, seconds = manifest["device"], manifest["seconds"]
    versions = ", ".join(f"{k} {v}" for k, v in manifest["versions"].items())
    data = ", ".join(
        f"`{name.removeprefix('experiments.data.')}` {checksum[:12]}"
        for name, checksum in manifest["data"].items()
    )
    rows = [
        ("command", f"`{manifest['command']}`"),
        ("plan", f"{manifest['hash']}, {manifest['chunk']} cells side by side"),
        ("device", f"{device['count']} × {device['kind']}"),
        (
            "runs, seconds",
            f"{manifest['runs']}, {seconds['run']:.0f} and {seconds['compile']:.0f} of "
            "compilation",
        ),
        ("data (SHA-256)", data or "none"),
        ("versions", versions),
        ("revision", _revisions(manifest)),
    ]
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows)])
    return f"# {title}\n\n**Question.** {question}\n\n**Verdict.** {verdict}\n\n{table}"


def trained(question: dict[str, Any]) -> str:
    """A question of a plan in words: the network, its data and how long it trains."""
    recipe = question["recipe"]
    sizes = "-".join(map(str, recipe["model"]["with"][0]))
    return (
        f"Layers {sizes}, {recipe['train_size']} examples, {recipe['label_noise']:.0%} "
        f"of their labels redrawn, {question['epochs']} epochs of batches of "
        f"{recipe['batch']}"
    )


def closing(manifest: dict[str, Any], files: str) -> str:
    """Where the numbers are."""
    return (
        f"Files: {files}, `manifest.json`. Made again from them by "
        f"`python -m experiments report` and the folder; the numbers by "
        f"`make study NAME={manifest['study']}`."
    )


def _revisions(manifest: dict[str, Any]) -> str:
    """Of all processes that made pieces: more than one is said."""
    return ", ".join(sorted({revision_of(each) for each in manifest["made by"]}))


def listed(parts: list[str]) -> str:
    """a, b and c."""
    return ", ".join(parts[:-2] + [" and ".join(parts[-2:])])
