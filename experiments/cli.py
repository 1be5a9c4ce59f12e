"""The commands: functions whose arguments tyro reads from the command line."""

import dataclasses
import functools
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro


RAW = ("cells.csv", "raw.npz", "manifest.json")


def demo(
    started: tyro.conf.Suppress[float],
    out: Path = Path("results/demo"),
    smoke: tyro.conf.FlagCreatePairsOff[bool] = False,
    seeds: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
) -> None:
    """The same λθ at two places of the chain: what difference does it make?

    Tunes nine arms on digits with wrong labels, runs the best of each on fresh seeds,
    and writes cells.csv, raw.npz, manifest.json, figures and report.md.

    Args:
        started: when the process started, by `time.perf_counter`.
        out: folder for the results.
        smoke: a tiny grid and a few epochs: seconds, and no finding.
        seeds: number of fresh seeds for the final runs of each arm; 20 without this,
            4 in a smoke run.
    """
    from experiments import engine

    engine.use_all_cores()
    from experiments.demo import FULL, run, SMOKE

    plan = SMOKE if smoke else FULL
    if seeds is not None:
        if seeds < 2:
            sys.exit(f"experiments demo: --seeds {seeds}: an interval needs 2 or more.")
        plan = dataclasses.replace(plan, final_seeds=seeds)
    command = shlex.join(["python", "-m", "experiments", *sys.argv[1:]])
    run(plan, out, command, started)


def bf16(
    started: tyro.conf.Suppress[float],
    out: Path = Path("results/bf16"),
    smoke: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Does weight decay survive bfloat16, and what does it take?

    Decays weights and trains a network in bfloat16, plain, with stochastic rounding and
    with compensation; writes kept.csv, cells.csv, manifest.json, figures and report.md.

    Args:
        started: when the process started, by `time.perf_counter`.
        out: folder for the results.
        smoke: few steps and two seeds: seconds, and no finding.
    """
    from experiments import engine

    engine.use_all_cores()
    from experiments.bf16 import FULL, run, SMOKE

    command = shlex.join(["python", "-m", "experiments", *sys.argv[1:]])
    run(SMOKE if smoke else FULL, out, command, started)


def report(folder: tyro.conf.Positional[Path] = Path("results/demo")) -> None:
    """Make figures and report again, from the stored results alone.

    Args:
        folder: where an experiment has written its results.
    """
    if (folder / "kept.csv").is_file():
        from experiments.bf16_report import write_report as write_bf16_report

        write_bf16_report(folder)
        print(folder / "report.md")
        return
    missing = [name for name in RAW if not (folder / name).is_file()]
    if missing:
        sys.exit(
            f"experiments report: no {', '.join(missing)} in {folder}. Make them with: "
            f"python -m experiments demo --out {folder}"
        )
    from experiments.report import write_report
    from experiments.terminal import show

    show(write_report(folder), folder)


def main(started: float) -> None:
    tyro.extras.subcommand_cli_from_dict(
        {
            "demo": functools.partial(demo, started),
            "bf16": functools.partial(bf16, started),
            "report": report,
        },
        prog="python -m experiments",
        description="Experiments with decayax: one subcommand, one question.",
    )
