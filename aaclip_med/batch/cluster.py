"""A run on several workers by Ray: one predictor each, cases handed out as workers become free, lost workers replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aaclip_med.batch.ledger import forget, lock_folder
from aaclip_med.batch.progress import Progress, Quiet
from aaclip_med.batch.records import Row
from aaclip_med.batch.run import Batch, Tally, Task
from aaclip_med.data.sources import Found, Source
from aaclip_med.data.writing import prepare_output_folder
from aaclip_med.errors import AaclipError, InputError
from aaclip_med.inference.predictor import load_predictor

CHUNK = 8
"""Cases handed to a worker at once, at most: it reads ahead and writes behind within them."""
RETRIES = 5
"""How often a chunk is tried again after its worker was lost."""


@dataclass(frozen=True)
class Cluster:
    """Where the run goes: a cluster's ``address`` (None: this machine alone), how many ``workers`` (0: one a GPU, or one)."""

    address: str | None = None
    workers: int = 0


class _Worker:
    """One predictor in a process of its own. What fails by the user's fault comes back as a text, as nothing can be retried."""

    def __init__(self, options: dict[str, Any], out: str, task: Task) -> None:
        self.failure: str | None = None
        try:
            self.batch = Batch(load_predictor(**options), out, task)
        except AaclipError as error:
            self.failure = str(error)

    def score(self, sources: Sequence[Source]) -> list[Row] | str:
        """The rows of a chunk. What a lost worker had finished of it is not done again."""
        if self.failure:
            return self.failure
        try:
            return [outcome.row for outcome in self.batch.pipeline.score(sources)]
        except AaclipError as error:
            return str(error)

    def finish(self, found: Found) -> str | None:
        """Write the tables."""
        if self.failure:
            return self.failure
        try:
            self.batch.finish(found)
        except AaclipError as error:
            return str(error)
        return None


def score_on_cluster(
    found: Found,
    options: dict[str, Any],
    out: str | Path,
    task: Task,
    cluster: Cluster,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Tally:
    """Score what ``find_sources`` found on the workers of a Ray cluster, as ``score_sources`` does on this machine.

    ``options`` are ``load_predictor``'s. Every worker must see the inputs and ``out`` under the same paths, and has the same
    version of this package. Tables are those of a run on one machine.

    Raises:
        InputError: Ray is not installed, or as ``score_sources``.
        AaclipError: a worker could not load the model or write its results.
    """
    progress = progress or Quiet()
    out = prepare_output_folder(out).resolve()
    with lock_folder(out), _connect(cluster) as (ray, gpus):
        if overwrite:
            forget(out)
        count = min(cluster.workers or max(1, gpus), max(1, len(found.sources)))
        resources = {"num_gpus": 1, "num_cpus": 2} if gpus else {"num_cpus": 1}
        make = ray.remote(max_restarts=-1, max_task_retries=RETRIES, **resources)(_Worker)
        workers = [make.remote(options, str(out), task) for _ in range(count)]
        size = max(1, min(CHUNK, len(found.sources) // (4 * count)))
        chunks = [found.sources[start : start + size] for start in range(0, len(found.sources), size)]
        tally = Tally()
        with progress.of(len(found.sources)):
            for rows in _hand_out(ray, workers, chunks):
                for row in rows:
                    tally.add(row)
                    progress.advance(row)
        _check(_fetch(ray, workers[0].finish.remote(found)))
    return tally


def _hand_out(ray: Any, workers: list[Any], chunks: list[list[Source]]) -> Iterator[list[Row]]:
    """The rows of each chunk as they are done; a worker gets its next chunk when it has finished one."""
    waiting = iter(chunks)
    busy: dict[Any, Any] = {}
    for worker in workers:
        chunk = next(waiting, None)
        if chunk is not None:
            busy[worker.score.remote(chunk)] = worker
    while busy:
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        worker = busy.pop(ready)
        answer = _fetch(ray, ready)
        _check(answer if isinstance(answer, str) else None)
        chunk = next(waiting, None)
        if chunk is not None:
            busy[worker.score.remote(chunk)] = worker
        yield answer


def _fetch(ray: Any, answer: Any) -> Any:
    try:
        return ray.get(answer)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise AaclipError(f"a Ray worker failed ({reason}); the same command goes on where it stopped") from None


def _check(failure: str | None) -> None:
    if failure:
        raise AaclipError(failure)


@contextmanager
def _connect(cluster: Cluster) -> Iterator[tuple[Any, int]]:
    """Ray and the number of the cluster's GPUs."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of it
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'aaclip-med[ray]'") from None
    try:
        dashboard = {} if cluster.address else {"include_dashboard": False}
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", **dashboard)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"no Ray cluster at {cluster.address}: {' '.join(str(error).split())[:120]}") from None
    try:
        yield ray, int(ray.cluster_resources().get("GPU", 0))
    finally:
        ray.shutdown()
