"""Shards as jobs: processes on this machine or a SLURM cluster's, by submitit.

A job that fails, or is killed, is started again and goes on with the pieces that are
missing; one that a cluster puts back into its queue does so by itself. When all shards
have made their pieces of a stage, they are started for the next one.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import interrupts
from experiments.problem import Problem


SECONDS_BETWEEN_LOOKS = 0.5


@dataclasses.dataclass(frozen=True)
class Queue:
    """Where jobs run."""

    cluster: str  # "local" or "slurm"
    partition: str | None
    minutes: int


@dataclasses.dataclass(frozen=True)
class Job:
    """One shard's work, which may be put back into the queue at any time."""

    work: Callable[[], int]

    def __call__(self) -> int:
        """The exit status of the shard."""
        return self.work()

    def checkpoint(self) -> Any:
        """What submitit puts back: the same, as finished pieces are files."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def launch_shards(
    work: Sequence[Callable[[], int]],
    logs: Path,
    queue: Queue,
    retries: int,
    done: int,
) -> None:
    """Run all shards until one of them says `done`: then all pieces are there.

    Raises:
        Problem: submitit is missing, or a shard failed more often than `retries`.
    """
    executor = _executor(logs, queue)
    failed = [0] * len(work)
    while True:
        with executor.batch():  # on a cluster, one array
            jobs = [executor.submit(Job(each)) for each in work]
        try:
            statuses = [
                _wait(executor, jobs, index, each, failed, retries)
                for index, each in enumerate(work)
            ]
        except BaseException:
            for job in jobs:
                job.cancel()
            raise
        if done in statuses:
            return


def _wait(
    executor: Any,
    jobs: list[Any],
    index: int,
    work: Callable[[], int],
    failed: list[int],
    retries: int,
) -> int:
    """The status of a shard, which is started again when it fails."""
    while True:
        while not jobs[index].done():
            interrupts.heed()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if (error := jobs[index].exception()) is None:
            return jobs[index].result()
        failed[index] += 1
        last = str(error).strip().splitlines()[-1:]
        if failed[index] > retries:
            raise Problem(
                f"shard {index} failed {failed[index]} times ({' '.join(last)}); what "
                f"it said is in {jobs[index].paths.stderr}."
            )
        print(f"shard {index} failed ({' '.join(last)}): started again", flush=True)
        jobs[index] = executor.submit(Job(work))


def _executor(logs: Path, queue: Queue) -> Any:
    try:
        import submitit
    except ModuleNotFoundError:
        raise Problem(
            "launch needs submitit: pip install 'decayax[cluster]' (in a checkout: "
            "pip install -e '.[cluster]')."
        ) from None
    if queue.cluster not in ("local", "slurm"):
        raise Problem(f"--cluster {queue.cluster}: write local or slurm.")
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=queue.cluster)
    except RuntimeError as error:
        raise Problem(f"--cluster {queue.cluster}: {error}.") from None
    executor.update_parameters(timeout_min=queue.minutes)
    if queue.cluster == "slurm" and queue.partition:
        executor.update_parameters(slurm_partition=queue.partition)
    return executor
