"""Run shards as jobs, on this machine or on a SLURM cluster, with submitit.

A job that fails or is killed is started again, and trains the cells that are missing.
So does a job that the cluster requeues. When all shards have finished a stage, they are
started again for the next one.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import interrupts
from experiments.errors import UserError


POLL_SECONDS = 0.5  # between two looks at the jobs


@dataclasses.dataclass(frozen=True)
class Queue:
    """Where jobs run, and what each requests. None: the default of the cluster."""

    cluster: str  # "local" or "slurm"
    partition: str | None
    minutes: int
    gpus: int | None = None
    cpus: int | None = None
    gigabytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """The work of one shard. The cluster may requeue it at any time."""

    work: Callable[[], int]

    def __call__(self) -> int:
        """Run the shard and return its exit status."""
        return self.work()

    def checkpoint(self) -> Any:
        """Return the job that submitit requeues: the same one, as cells are files."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def launch_shards(
    work: Sequence[Callable[[], int]],
    logs: Path,
    queue: Queue,
    retries: int,
    done: int,
) -> None:
    """Run all shards until one of them returns `done`. Then all cells are stored.

    Args:
        work: the function of each shard, which returns an exit status.
        logs: the folder of the jobs' output.
        queue: where the jobs run.
        retries: how often a failed shard is started again.
        done: the exit status of a shard that has found all cells.

    Raises:
        UserError: submitit is missing, or a shard failed more often than `retries`.
    """
    executor = _executor(logs, queue)
    failed = [0] * len(work)
    statuses: list[int | None] = [None]
    while done not in statuses:
        with executor.batch():  # one job array on a cluster
            jobs = [executor.submit(Job(each)) for each in work]
        statuses = [None] * len(work)
        try:
            while None in statuses:
                interrupts.raise_if_interrupted()
                time.sleep(POLL_SECONDS)
                _poll(executor, jobs, work, statuses, failed, retries)
        except BaseException:  # Ctrl-C, too
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
    """Store the exit statuses of finished shards, and start failed shards again."""
    for index, job in enumerate(jobs):
        if statuses[index] is not None or not job.done():
            continue
        error = job.exception()
        if error is None:
            statuses[index] = job.result()
            continue
        failed[index] += 1
        if failed[index] > retries:
            raise UserError(
                f"shard {index} failed {failed[index]} times ({_reason(error)}). Its "
                f"output is in {job.paths.stderr}."
            )
        print(f"Shard {index} failed ({_reason(error)}) and starts again.", flush=True)
        jobs[index] = executor.submit(Job(work[index]))


def _reason(error: BaseException) -> str:
    """Return the last line of the job's traceback, else the first of the message.

    submitit's message contains the job's log; "-----" ends the traceback.
    """
    message, _, log = str(error).partition("Traceback")
    trace, _, _ = log.partition("-----")
    text = trace if trace else message
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if trace else lines[0]


def _executor(logs: Path, queue: Queue) -> Any:
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError(
            "launch needs submitit. Install it, in a checkout, with: pip install "
            "--group cluster (pip 25.1 or newer)."
        ) from None
    if queue.cluster not in ("local", "slurm"):
        raise UserError(f"--cluster {queue.cluster}: must be local or slurm.")
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
