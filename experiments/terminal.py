"""What a person sees while it runs: how far, how many diverged, how long still."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments import interrupts
from experiments.engine.chunks import Bar


SILENT = Bar(lambda _: None, lambda _: None, lambda _: None)
SECONDS_BETWEEN_LINES = 30.0
Show = Callable[[str, int, int], None]  # what is being done, runs done, runs diverged


@contextlib.contextmanager
def progress(total: int) -> Iterator[Bar]:
    """A bar over all runs, or a line now and then where output is not a terminal.

    An interrupt that passes through leaves with a note of how far it came.
    """
    doing, done, diverged = "starting", 0.0, 0
    with (_bar if Console().is_terminal else _lines)(total) as show:

        def show_progress() -> None:
            show(doing, min(round(done), total), diverged)

        def say(text: str) -> None:
            nonlocal doing
            interrupts.heed()
            doing = text
            show_progress()

        def advance(runs: float) -> None:
            nonlocal done
            interrupts.heed()
            done += runs
            show_progress()

        def count_diverged(runs: int) -> None:
            nonlocal diverged
            diverged += runs
            show_progress()

        try:
            yield Bar(say, advance, count_diverged)
        except interrupts.Interrupted as stop:
            stop.add_note(f"while {doing}, after {done:.0f} of {total} runs")
            raise
    if diverged:
        print(f"{diverged} diverged (their loss was not finite; they count as chance)")


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Show]:
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs, {task.fields[diverged]} diverged,"),
        TimeElapsedColumn(),
        TextColumn("so far,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("starting", total=total, diverged=0)
        yield lambda doing, done, diverged: bar.update(
            task, description=doing, completed=done, diverged=diverged
        )


@contextlib.contextmanager
def _lines(total: int) -> Iterator[Show]:
    """A line where the first word changes, so a stage begins, and every 30 seconds."""
    stage, last = "", 0.0

    def show(doing: str, done: int, diverged: int) -> None:
        nonlocal stage, last
        first, now = doing.partition(" ")[0], time.monotonic()
        if first == stage and now - last < SECONDS_BETWEEN_LINES:
            return
        stage, last = first, now
        print(f"{doing}: {done} of {total} runs, {diverged} diverged", flush=True)

    yield show
