"""What a person sees: a progress bar while it runs, tables when it is done."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from experiments import interrupts
from experiments.analysis import Analysis, DECOUPLED
from experiments.report import conclusion
from experiments.statistics import verdict


Lap = Callable[[str], None]  # told the name of every part that has just ended


class Bar(NamedTuple):
    """A running progress bar."""

    say: Callable[[str], None]  # what is being done
    advance: Callable[[float], None]  # how many more runs are done


@contextlib.contextmanager
def progress(total: int) -> Iterator[Bar]:
    """A bar over all runs, silent where output is no terminal.

    An interrupt that passes through leaves with a note of how far it came.
    """
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
    )
    console = Console()
    doing, done = "starting", 0.0
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(doing, total=total)

        def say(text: str) -> None:
            nonlocal doing
            interrupts.heed()
            doing = text
            bar.update(task, description=text)

        def advance(runs: float) -> None:
            nonlocal done
            interrupts.heed()
            done += runs
            bar.update(task, completed=round(done))

        try:
            yield Bar(say, advance)
        except interrupts.Interrupted as stop:
            stop.add_note(f"while {doing}, after {done:.0f} of {total} runs")
            raise


def show(analysis: Analysis, folder: Path) -> None:
    """The arms, the paired differences, the verdict, and where the files are."""
    console = Console()
    console.print(_arms(analysis))
    console.print(_differences(analysis))
    console.print(f"[bold]Verdict.[/bold] {conclusion(analysis)}\n", highlight=False)
    for name in ("report.md", "cells.csv", "manifest.json", "*.png"):
        console.print(f"  {folder / name}", highlight=False, soft_wrap=True)


def _arms(analysis: Analysis) -> Table:
    table = Table(
        title="Each arm at its best setting; test accuracy on fresh seeds",
        title_justify="left",
    )
    table.add_column("arm")
    for heading in ("best lr", "best λ", "val %", "test % ± 95 % CI", "max |w|"):
        table.add_column(heading, justify="right")
    for arm in analysis.arms:
        margin = (arm.test.high - arm.test.low) / 2
        edge = "*" if arm.choice.edges else ""
        table.add_row(
            arm.arm,
            f"{arm.choice.learning_rate:g}{edge}",
            f"{arm.choice.weight_decay:g}" if arm.choice.weight_decay else "-",
            f"{100 * arm.choice.val_accuracy:.1f}",
            f"{arm.test.mean:.1f} ± {margin:.1f}",
            f"{arm.max_abs_w:.2f}",
            end_section=arm.place == DECOUPLED,
        )
    if any(arm.choice.edges for arm in analysis.arms):
        table.caption = "* on the edge of the grid"
    return table


def _differences(analysis: Analysis) -> Table:
    table = Table(title="Paired by seed: points of test accuracy", title_justify="left")
    table.add_column("difference")
    table.add_column("mean", justify="right")
    table.add_column("95 % CI", justify="right")
    table.add_column("in words")
    for pair in analysis.pairs + analysis.decays:
        mean, low, high, _ = pair.difference
        table.add_row(
            f"{pair.first} - {pair.second}",
            f"{mean:+.2f}",
            f"{low:+.2f} .. {high:+.2f}",
            verdict(pair),
            end_section=pair is analysis.pairs[-1],
        )
    return table


def stopwatch(started: float) -> tuple[Lap, dict[str, float]]:
    """A function to call at the end of each part, and the seconds it notes."""
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        elapsed = time.perf_counter() - started - sum(seconds.values())
        seconds[name] = round(elapsed, 2)

    return lap, seconds
