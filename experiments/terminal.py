"""What a person sees: a progress bar while it runs, a table when it is done."""

import contextlib
from collections.abc import Callable, Iterator
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

from experiments.analysis import Analysis
from experiments.report import number, outlook, signed
from experiments.statistics import verdict


class Bar(NamedTuple):
    """A running progress bar."""

    say: Callable[[str], None]  # what is being done
    advance: Callable[[float], None]  # how many more runs are done


@contextlib.contextmanager
def progress(total: int) -> Iterator[Bar]:
    """A bar over all runs; where output is no terminal, nothing."""
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
    )
    console = Console()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=total)
        done = 0.0

        def advance(runs: float) -> None:
            nonlocal done
            done += runs
            bar.update(task, completed=round(done))

        yield Bar(lambda text: bar.update(task, description=text), advance)


def show(analysis: Analysis) -> None:
    """The table of arms, the paired differences and the verdict."""
    console = Console()
    table = Table(title="Digits with wrong training labels: each arm at its best")
    table.add_column("arm")
    for column in ("peak lr", "λ", "val %", "test % ± 95 % CI", "max |w|"):
        table.add_column(column, justify="right")
    for arm in analysis.arms:
        margin = (arm.test.high - arm.test.low) / 2
        table.add_row(
            arm.arm,
            number(arm.choice.learning_rate),
            number(arm.choice.weight_decay) if arm.choice.weight_decay else "-",
            f"{100 * arm.choice.val_accuracy:.1f}",
            f"{arm.test.mean:.1f} ± {margin:.1f}",
            f"{arm.max_abs_w:.2f}",
            end_section=arm.place == "decoupled",
        )
    console.print(table)
    console.print("Paired by seed, in points of test accuracy:")
    for comparison in analysis.pairs + analysis.decays:
        console.print(f"  {verdict(comparison)}", highlight=False)
    console.print(f"\n[bold]Verdict.[/bold] {outlook(analysis)}", highlight=False)
