"""Progress on the terminal: runs done, runs diverged, time left."""

import contextlib
import time
from collections.abc import Callable, Iterator

import rich.progress
from rich.console import Console

from experiments import interrupts
from experiments.engine.training import Progress


SILENT = Progress(lambda _: None, lambda _: None, lambda _: None)
SECONDS_BETWEEN_LINES = 30.0
Show = Callable[[str, int, int], None]  # description, runs done, runs diverged


@contextlib.contextmanager
def progress_bar(total: int) -> Iterator[Progress]:
    """A progress bar over all runs; lines of text if the output is not a terminal.

    `Interrupted` passes through with a note that says how many runs are done.
    """
    description, done, diverged = "starting", 0.0, 0
    with (_rich_bar if Console().is_terminal else _lines)(total) as show:

        def refresh() -> None:
            show(description, min(round(done), total), diverged)

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
        print(f"{diverged} diverged (their loss was not finite; they count as chance)")


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
    """A line at the start of each stage (a new first word) and every 30 seconds."""
    stage, last = "", 0.0

    def show(description: str, done: int, diverged: int) -> None:
        nonlocal stage, last
        first, now = description.partition(" ")[0], time.monotonic()
        if first == stage and now - last < SECONDS_BETWEEN_LINES:
            return
        stage, last = first, now
        print(f"{description}: {done} of {total} runs, {diverged} diverged", flush=True)

    yield show
