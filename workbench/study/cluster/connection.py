"""The connection to a Dask cluster and its workers: probe them, send blobs and jobs, receive events and results."""

from __future__ import annotations

import contextlib
import platform
import queue
import re
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.core.checks import given, require_int, require_positive
from workbench.core.errors import BackendUnavailable, ConfigError, StudyError
from workbench.core.lazy import optional_import
from workbench.core.machine import this_site
from workbench.study.cluster import worker_main
from workbench.study.cluster.blobs import Blob
from workbench.study.cluster.job import ClusterJob, JobResult, Transfer
from workbench.study.cluster.worker_info import (
    ClusterWorker,
    WorkerInfo,
    able,
    by_site,
    differences,
    needed,
    start_words,
)

_ADDRESS = re.compile(r"[a-z+]+://\S+|[^:/\s]+:\d+")
_POLL_S = 0.2
_HALT_S = 15.0
_GATHER_S = 30.0
_LOOK_S = 1.0
_GONE_S = 60.0
"""Seconds without any worker of a kind after which its trials are left for another run."""


@dataclass(frozen=True)
class Cluster:
    """A Dask cluster whose workers with the resource ``workbench`` run the units of a study.

    Anyone who reaches the scheduler can run code on its workers: keep the cluster inside a trusted network, or pass a
    client with Dask's TLS settings.

    Parameters
    ----------
    at : str, Client or cluster
        Address of the scheduler, such as ``"tcp://head:8786"``, a connected ``distributed.Client``, or an object such
        as ``LocalCluster``.
    gpu : bool
        Use the workers that also have the resource ``gpu``. Without it they are left alone, unless there are no others.
    timeout_s : float
        Seconds to wait for the scheduler's answer, and for the first worker.
    tries : int
        Number of workers that may be lost with a unit, or fail it, before its trials fail.

    Raises
    ------
    ConfigError
        If an option has a wrong type or is out of range.

    Examples
    --------
    Start workers on every machine with ``dask worker tcp://head:8786 --nthreads 1 --resources "workbench=1"``. To try
    it on one machine:

    >>> from distributed import LocalCluster
    >>> workers = dict(n_workers=2, threads_per_worker=1, resources={"workbench": 1})
    >>> with LocalCluster(processes=True, **workers) as cluster:  # doctest: +SKIP
    ...     study.run(recipes, cluster=Cluster(cluster))
    """

    at: Any
    gpu: bool = False
    timeout_s: float = 10.0
    tries: int = 3

    def __post_init__(self) -> None:
        attributes = ("scheduler_address", "scheduler_info")  # of a cluster, and of a client
        if not (isinstance(self.at, str) and self.at) and not any(hasattr(self.at, name) for name in attributes):
            raise ConfigError(
                "cluster must be the address of a Dask scheduler such as 'tcp://head:8786', a distributed.Client, or "
                f"a cluster such as LocalCluster; got {given(self.at)}."
            )
        if not isinstance(self.gpu, bool):
            raise ConfigError(f"Cluster: gpu must be True or False, got {given(self.gpu)}.")
        require_positive("Cluster: timeout_s", self.timeout_s, unit="seconds")
        require_int("Cluster: tries", self.tries)


@contextlib.contextmanager
def connected(cluster: Any) -> Iterator[ClusterConnection]:
    """Connect to the ``cluster`` of :meth:`Study.run`; a client that was passed stays open.

    Raises PackageMissing without distributed, ConfigError if it is not a valid cluster or does not answer in time.
    """
    config = cluster if isinstance(cluster, Cluster) else Cluster(cluster)
    with optional_import("Study.run(cluster=...)"):
        from distributed import Client
    if isinstance(config.at, Client):
        if config.at.asynchronous or config.at.status != "running":
            status = "asynchronous" if config.at.asynchronous else config.at.status
            raise ConfigError(f"cluster: the client must be connected and not asynchronous, got one that is {status}.")
        yield ClusterConnection(config.at, config)
        return
    if isinstance(config.at, str) and not _ADDRESS.fullmatch(config.at):
        example = "such as 'tcp://head:8786'"
        raise ConfigError(f"cluster: {given(config.at)} is not the address of a Dask scheduler, {example}.")
    try:
        client: Any = Client(config.at, timeout=config.timeout_s, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"cluster: no Dask scheduler answers at {given(config.at)} within {config.timeout_s:g} s "
            f"({type(error).__name__}: {error}). Start one with `dask scheduler`, and check address and firewall."
        ) from error
    with client:
        yield ClusterConnection(client, config)


class ClusterConnection:
    """The connection of one run. Methods raise StudyError if the scheduler is gone."""

    def __init__(self, client: Any, config: Cluster) -> None:
        self.config = config
        self.transfers: list[Transfer] = []
        self.events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._client = client
        self.run = f"workbench-{uuid.uuid4().hex[:8]}"
        self._probed: set[str] = set()

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return str(self._client.scheduler.address)

    @property
    def dashboard(self) -> str:
        """Address of Dask's dashboard; empty if there is none."""
        return str(self._client.dashboard_link or "")

    def __enter__(self) -> ClusterConnection:
        self._client.subscribe_topic(self.run, lambda event: self.events.put(("progress", event[1])))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.unsubscribe_topic(self.run)

    def workers(self, backends: Sequence[str], required: Collection[str], fingerprint: str) -> list[ClusterWorker]:
        """Return the workers that may time, after a probe of each; waits for the first one.

        Raises ConfigError if there is none or its package versions differ, BackendUnavailable if it cannot run one of
        the ``required`` backends.
        """
        end = time.monotonic() + self.config.timeout_s
        while not (there := self.alive()) and time.monotonic() < end:
            time.sleep(_POLL_S)
        if not able(there, gpu=self.config.gpu):
            tags = " and ".join(f"{name!r}" for name in needed(gpu=self.config.gpu))
            which = f"none of its {len(there)} workers has the resource {tags}" if there else "it has no worker"
            command = start_words(self.address, gpu=self.config.gpu)
            raise ConfigError(f"cluster {self.address}: {which}. Start some: {command}")
        workers, refused = self.newcomers(backends, fingerprint)
        if refused:
            raise ConfigError(f"cluster {self.address}: {' '.join(refused)} Make them alike, or stop those workers.")
        for worker in workers:
            for name in required:
                if (reason := worker.info.backends.get(name)) is not None:
                    raise BackendUnavailable(f"Backend {name!r} cannot run on {worker.words}: {reason}")
        return workers

    def newcomers(self, backends: Sequence[str], fingerprint: str) -> tuple[list[ClusterWorker], list[str]]:
        """Return new workers, and a sentence for each that cannot take part."""
        there = self.alive()
        self._probed &= set(there)  # one that comes back is probed again
        new = [address for address in able(there, gpu=self.config.gpu) if address not in self._probed]
        self._probed |= set(new)
        options = {"workers": new, "on_error": "return"}
        answers = self._client.run(worker_main.probe, list(backends), fingerprint, **options) if new else {}
        workers, refused = [], []
        for address, answer in answers.items():
            name = str(there[address].get("name", address))
            if not isinstance(answer, WorkerInfo):
                refused.append(f"Worker {name} cannot load this workbench: {type(answer).__name__}: {answer}.")
            elif apart := differences(this_site(), platform.python_version(), answer):
                refused.append(f"Worker {name} on {answer.host} has {', '.join(apart)}.")
            else:
                workers.append(ClusterWorker(address, name, answer, dict(answer.held_blobs)))
        return workers, refused

    def send(self, worker: ClusterWorker, blob: Blob, fingerprint: str) -> None:
        """Send a blob to a worker, unless the worker has its content."""
        if worker.held_blobs.get(blob.name) == blob.digest:
            return
        self._client.run(worker_main.keep, blob, fingerprint, workers=[worker.address])
        worker.held_blobs[blob.name] = blob.digest
        self.transfers.append(Transfer(worker.name, blob.name, blob.digest, blob.size))

    def submit(self, worker: ClusterWorker, job: ClusterJob, number: int) -> Any:
        """Start a job on a worker; at its end ``("ended", future)`` is put into :attr:`events`."""
        key, resources = f"{job.unit.words}-{self.run}-{number}", needed(gpu=self.config.gpu)
        options = {"workers": [worker.address], "resources": resources, "pure": False, "retries": 0}
        future = self._client.submit(worker_main.do, job, key=key, **options)
        future.add_done_callback(lambda done: self.events.put(("ended", done)))
        return future

    def result(self, future: Any, worker: ClusterWorker) -> tuple[JobResult | None, str]:
        """Return the result of a job that has ended, or None and the reason."""
        if future.status == "error":
            error = future.exception()
            return None, f"failed in it ({type(error).__name__}: {error})"
        while future.status == "finished":
            try:
                return future.result(timeout=_GATHER_S), ""
            except TimeoutError:
                if worker.address not in self.alive():
                    break
            except Exception as error:  # noqa: BLE001 - whatever a broken connection raises
                return None, f"did not deliver its result ({type(error).__name__}: {error})"
        return None, "ended before its result was fetched"

    def cancel(self, futures: Iterable[Any]) -> None:
        """Cancel tasks: Dask would keep those of a lost worker for its return."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.cancel(list(futures))

    def halt(self, futures: Iterable[Any]) -> None:
        """Stop the running jobs, and wait until their processes have ended, at most 15 s."""
        end = time.monotonic() + _HALT_S
        with contextlib.suppress(Exception):  # the scheduler may be gone: jobs then end by themselves
            while (
                sum(self._client.run(worker_main.halt, self.run, on_error="ignore").values()) and time.monotonic() < end
            ):
                time.sleep(_POLL_S)
        self.cancel(futures)

    def alive(self) -> dict[str, Any]:
        """Return the scheduler's facts about all of its workers, by address."""
        try:
            return dict(self._client.scheduler_info()["workers"])
        except (OSError, ValueError) as error:
            raise StudyError(
                f"The Dask scheduler at {self.address} no longer answers ({error}). Complete trials are kept; run "
                "again once it is back."
            ) from error


class ClusterWorkers:
    """The workers of a run; new ones join if they run all ``backends`` and are of a kind that the run began with."""

    def __init__(
        self, connection: ClusterConnection, members: Sequence[ClusterWorker], backends: Sequence[str], task: str
    ) -> None:
        self.members = list(members)
        self._connection, self._backends, self._fingerprint = connection, backends, task
        self._kinds = frozenset(by_site(members))
        self._looked = 0.0
        self._present_at = dict.fromkeys(self._kinds, time.monotonic())

    def addresses(self, site: str) -> set[str]:
        """Return the addresses of the workers of one kind."""
        return {worker.address for worker in self.members if worker.site.fingerprint == site}

    def hosts(self, site: str) -> int:
        """Return the number of hosts that have workers of one kind."""
        return len({worker.info.host for worker in self.members if worker.site.fingerprint == site})

    def drop(self, worker: ClusterWorker) -> None:
        """Remove a lost worker."""
        self.members = [other for other in self.members if other is not worker]

    def look(self) -> tuple[list[ClusterWorker], list[str]]:
        """Look once a second; return the lost workers, and a sentence about each new one that is not taken."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return [], []
        self._looked = now
        alive = self._connection.alive()
        lost = [worker for worker in self.members if worker.address not in alive]
        joined, refused = self._connection.newcomers(self._backends, self._fingerprint)
        for worker in joined:
            unfit = [name for name in self._backends if worker.info.backends.get(name) is not None]
            if worker.site.fingerprint in self._kinds and not unfit:
                self.members.append(worker)
            else:
                why = f"cannot run {', '.join(unfit)}" if unfit else "is of another kind than those this run began with"
                refused.append(f"{worker.words} {why}.")
        return lost, refused

    def deserted(self, sites: Iterable[str]) -> list[str]:
        """Return those of ``sites`` that have had no worker for a minute."""
        present, now = by_site(self.members), time.monotonic()
        self._present_at |= dict.fromkeys(present, now)
        return [site for site in sites if now - self._present_at[site] > _GONE_S]
