"""Plant single-line faults, one at a time, and report those that no test finds.

    make mutants                      all of them
    make mutants ARGS="rates store"   those whose name or file contains one of the words

Each mutant is planted in a copy of the repository. Its tests run there and must fail.
The program ends with status 1 if more than two per cent of the mutants survive.
"""

import argparse
import concurrent.futures
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

from mutants import MUTANTS  # noqa: E402
from mutants.mutant import Mutant  # noqa: E402


TOO_LONG = 600.0  # seconds: a mutant that makes the tests hang is found
MOST_SURVIVORS = 0.02  # of all mutants
FOUND = (1, 2)  # pytest's status if a test fails, or if a module cannot be imported


class Verdict(NamedTuple):
    """What became of one mutant."""

    mutant: Mutant
    killed: bool
    seconds: float


def copy_of_repository(folder: Path) -> Path:
    """The files that git knows, in a new folder."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def try_mutant(mutant: Mutant, copy: Path) -> Verdict:
    """Plant a mutant in a copy, run its tests there, and undo the change."""
    path = copy / mutant.file
    source = path.read_text(encoding="utf-8")
    path.write_text(mutant.planted(source), encoding="utf-8")
    begun = time.monotonic()
    try:
        # Bytecode is off: two versions of a file may have one size and time stamp.
        result = subprocess.run(
            [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
            + mutant.tests.split(),
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            timeout=TOO_LONG,
        )
        # Any other status: these tests do not exist, and the mutant was not tried.
        if result.returncode not in (0, *FOUND):
            raise ValueError(f"{mutant.name}: pytest cannot run {mutant.tests}")
        killed = result.returncode in FOUND
    except subprocess.TimeoutExpired:
        killed = True
    finally:
        path.write_text(source, encoding="utf-8")
    return Verdict(mutant, killed, time.monotonic() - begun)


def try_all(mutants: list[Mutant], jobs: int) -> list[Verdict]:
    """The verdicts on all mutants; each job has its own copy of the repository."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: queue.Queue[Path] = queue.Queue()
        for job in range(jobs):
            copies.put(copy_of_repository(Path(folder, str(job))))

        def one(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                return try_mutant(mutant, copy)
            finally:
                copies.put(copy)

        verdicts = []
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for verdict in pool.map(one, mutants):
                word = "killed" if verdict.killed else "SURVIVED"
                name, file = verdict.mutant.name, verdict.mutant.file
                print(f"{word:8} {verdict.seconds:5.0f} s  {name}  {file}", flush=True)
                verdicts.append(verdict)
    return verdicts


def main() -> int:
    """Try the mutants that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="parts of names or files; none: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    chosen = [
        mutant
        for mutant in MUTANTS
        if not options.words
        or any(word in f"{mutant.name} {mutant.file}" for word in options.words)
    ]
    verdicts = try_all(chosen, options.jobs)
    survivors = [verdict.mutant for verdict in verdicts if not verdict.killed]
    for mutant in survivors:
        print(f"\n{mutant.name} in {mutant.file}\n- {mutant.old}\n+ {mutant.new}")
        if mutant.equivalent:
            print(f"no test can find it: {mutant.equivalent}")
    # A mutant that is equivalent to the program must survive, and does not count.
    missing = [mutant for mutant in survivors if not mutant.equivalent]
    counted = [mutant for mutant in chosen if not mutant.equivalent]
    killed = len(counted) - len(missing)
    print(f"\n{killed} of {len(counted)} mutants killed")
    return int(len(missing) > MOST_SURVIVORS * len(counted))


if __name__ == "__main__":
    raise SystemExit(main())
