"""What a person sees while it runs: how far, how many diverged, how long still."""

import contextlib
from collections.abc import Iterator

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


@contextlib.contextmanager
def progress(total: int) -> Iterator[Bar]:
    """A bar over all runs, silent where output is no terminal.

    An interrupt that passes through leaves with a note of how far it came.
    """
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
    console = Console()
    doing, done, diverged = "starting", 0.0, 0
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(doing, total=total, diverged=0)

        def say(text: str) -> None:
            nonlocal doing
            interrupts.heed()
            doing = text
            bar.update(task, description=text)

        def advance(runs: float) -> None:
            nonlocal done
            interrupts.heed()
            done += runs
            bar.update(task, completed=min(round(done), total))

        def count_diverged(runs: int) -> None:
            nonlocal diverged
            diverged += runs
            bar.update(task, diverged=diverged)

        try:
            yield Bar(say, advance, count_diverged)
        except interrupts.Interrupted as stop:
            stop.add_note(f"while {doing}, after {done:.0f} of {total} runs")
            raise
