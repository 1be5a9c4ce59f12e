"""Shards as jobs: processes on this machine or a SLURM cluster's, by submitit.

A job that fails or is killed is started again and trains the cells that are missing; a
job that the cluster requeues does so by itself. When all shards are done with a stage,
they are started for the next one.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import interrupts
from experiments.errors import UserError


POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Queue:
    """Where jobs run, and what each requests; None is the default of the cluster."""

    cluster: str  # "local" or "slurm"
    partition: str | None
    minutes: int
    gpus: int | None = None
    cpus: int | None = None
    gigabytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """One shard's work, which the cluster may requeue at any time."""

    work: Callable[[], int]

    def __call__(self) -> int:
        """The exit status of the shard."""
        return self.work()

    def checkpoint(self) -> Any:
        """The job that submitit requeues: the same one, as finished cells are files."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def launch_shards(
    work: Sequence[Callable[[], int]],
    logs: Path,
    queue: Queue,
    retries: int,
    done: int,
) -> None:
    """Run all shards until one of them returns `done`: then all cells are stored.

    Raises:
        UserError: submitit is missing, or a shard failed more often than `retries`.
    """
    executor = _executor(logs, queue)
    failed = [0] * len(work)
    statuses: list[int | None] = [None]
    while done not in statuses:
        with executor.batch():  # on a cluster, one array
            jobs = [executor.submit(Job(each)) for each in work]
        statuses = [None] * len(work)
        try:
            while None in statuses:
                interrupts.raise_if_interrupted()
                time.sleep(POLL_SECONDS)
                _poll(executor, jobs, work, statuses, failed, retries)
        except BaseException:
            for job in jobs:
                job.cancel()
            raise


def _poll(
    executor: Any,
    jobs: list[Any],
    work: Sequence[Callable[[], int]],
    statuses: list[int | None],
    failed: list[int],
    retries: int,
) -> None:
    """Store the exit statuses of finished shards; start failed shards again."""
    for index, job in enumerate(jobs):
        if statuses[index] is not None or not job.done():
            continue
        if (error := job.exception()) is None:
            statuses[index] = job.result()
            continue
        failed[index] += 1
        if failed[index] > retries:
            raise UserError(
                f"shard {index} failed {failed[index]} times ({_reason(error)}); its "
                f"output is in {job.paths.stderr}."
            )
        print(f"shard {index} failed ({_reason(error)}): started again", flush=True)
        jobs[index] = executor.submit(Job(work[index]))


def _reason(error: BaseException) -> str:
    """The last line of the job's traceback, or the first of submitit's message."""
    message, _, log = str(error).partition("Traceback")
    trace, _, _ = log.partition("-----")
    lines = [line.strip() for line in (trace or message).splitlines() if line.strip()]
    return lines[-1 if trace else 0] if lines else type(error).__name__


def _executor(logs: Path, queue: Queue) -> Any:
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError(
            "launch needs submitit: pip install 'decayax[cluster]' (in a checkout: "
            "pip install -e '.[cluster]')."
        ) from None
    if queue.cluster not in ("local", "slurm"):
        raise UserError(f"--cluster {queue.cluster}: write local or slurm.")
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=queue.cluster)
    except RuntimeError as error:
        raise UserError(f"--cluster {queue.cluster}: {error}.") from None
    requested = {
        "timeout_min": queue.minutes,
        "gpus_per_node": queue.gpus,
        "cpus_per_task": queue.cpus,
        "mem_gb": queue.gigabytes,
        "slurm_partition": queue.partition,
    }
    executor.update_parameters(**{n: x for n, x in requested.items() if x is not None})
    return executor
