"""Progress on the terminal: finished runs, diverged runs, remaining time."""

import contextlib
import time
from collections.abc import Callable, Iterator

import rich.progress
from rich.console import Console

from experiments import interrupts
from experiments.engine.training import Progress


SILENT = Progress(lambda _: None, lambda _: None, lambda _: None)
SECONDS_BETWEEN_LINES = 30.0
Show = Callable[[str, int, int], None]  # description, finished runs, diverged runs


@contextlib.contextmanager
def progress_bar(total: int) -> Iterator[Progress]:
    """Show a progress bar, or lines of text if the output is not a terminal.

    Each call also checks for a signal. If one was received, `Interrupted` is raised
    with a note that says how many runs are finished.
    """
    description, done, diverged = "starting", 0.0, 0
    display = _rich_bar if Console().is_terminal else _lines
    with display(total) as show:

        def refresh() -> None:
            show(description, min(round(done), total), diverged)

        # These callbacks are called often, and always at a safe point.
        def set_description(text: str) -> None:
            nonlocal description
            interrupts.raise_if_interrupted()
            description = text
            refresh()

        def advance(runs: float) -> None:
            nonlocal done
            interrupts.raise_if_interrupted()
            done += runs
            refresh()

        def count_diverged(runs: int) -> None:
            nonlocal diverged
            diverged += runs
            refresh()

        try:
            yield Progress(set_description, advance, count_diverged)
        except interrupts.Interrupted as stop:
            stop.add_note(f"while {description}, after {done:.0f} of {total} runs")
            raise
    if diverged:
        print(
            f"Diverged runs: {diverged}. Their loss was not finite, so they get the "
            "score of chance."
        )


@contextlib.contextmanager
def _rich_bar(total: int) -> Iterator[Show]:
    columns = (
        rich.progress.TextColumn("{task.description:<24}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("runs, {task.fields[diverged]} diverged,"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("so far,"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("left"),
    )
    with rich.progress.Progress(*columns, transient=True) as bar:
        task = bar.add_task("starting", total=total, diverged=0)
        yield lambda description, done, diverged: bar.update(
            task, description=description, completed=done, diverged=diverged
        )


@contextlib.contextmanager
def _lines(total: int) -> Iterator[Show]:
    """Print a line when a stage begins and every 30 seconds.

    The first word of a description is its stage.
    """
    stage, printed_at = "", 0.0

    def show(description: str, done: int, diverged: int) -> None:
        nonlocal stage, printed_at
        new_stage, now = description.partition(" ")[0], time.monotonic()
        if new_stage == stage and now - printed_at < SECONDS_BETWEEN_LINES:
            return
        stage, printed_at = new_stage, now
        print(f"{description}: {done} of {total} runs, {diverged} diverged", flush=True)

    yield show
