"""The connection to a Dask cluster: open it, look at its workers, send parcels and units, hear what they say."""

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
from workbench.study.cluster.blobs import Blob
from workbench.study.cluster.job import ClusterJob, JobResult
from workbench.study.cluster.worker_info import ClusterWorker, WorkerInfo, able, differences, needed, start_words

_ADDRESS = re.compile(r"[a-z+]+://\S+|[^:/\s]+:\d+")
_POLL_S = 0.2
_HALT_S = 15.0
_GATHER_S = 30.0


@dataclass(frozen=True)
class Cluster:
    """Where the units of a study run: workers of a Dask cluster that have the resource ``workbench``.

    Who reaches the scheduler of such a cluster can run code on its workers: keep it inside a network that you trust, or
    give a client with Dask's own TLS settings.

    Parameters
    ----------
    at : str, Client or cluster
        Address of the scheduler, such as ``"tcp://head:8786"``, a connected ``distributed.Client``, or an object such
        as ``LocalCluster``.
    gpu : bool
        Take the workers that have the resource ``gpu`` too; else those are left alone, unless there are no others.
    timeout_s : float
        Seconds that the scheduler has to answer, and the first worker to be there.
    tries : int
        How many workers may be lost over a unit, or fail it, before its trials count as failed.

    Raises
    ------
    ConfigError
        If one of them is of a wrong type or out of range.

    Examples
    --------
    Workers are started on every machine with ``dask worker tcp://head:8786 --nthreads 1 --resources "workbench=1"``.
    On one machine, for trying it out:

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
        known = ("scheduler_address", "scheduler_info")  # a cluster has the one, a client the other
        if not (isinstance(self.at, str) and self.at) and not any(hasattr(self.at, name) for name in known):
            raise ConfigError(
                "cluster must be the address of a Dask scheduler such as 'tcp://head:8786', a distributed.Client, or "
                f"a cluster such as LocalCluster; got {given(self.at)}."
            )
        if not isinstance(self.gpu, bool):
            raise ConfigError(f"Cluster: gpu must be True or False, got {given(self.gpu)}.")
        require_positive("Cluster: timeout_s", self.timeout_s, unit="seconds")
        require_int("Cluster: tries", self.tries)


@dataclass(frozen=True)
class Sent:
    """A parcel that went to a worker: its name (``"task"`` or an artefact's key), the hash of its content, its size."""

    worker: str
    name: str
    digest: str
    size: int


@contextlib.contextmanager
def connected(cluster: Any) -> Iterator[ClusterConnection]:
    """Open what ``Study.run(cluster=...)`` was given; a client that was given stays open.

    Raises
    ------
    PackageMissing
        If distributed is not installed.
    ConfigError
        If it is no cluster, or does not answer in time.
    """
    config = cluster if isinstance(cluster, Cluster) else Cluster(cluster)
    with optional_import("Study.run(cluster=...)"):
        from distributed import Client
    if isinstance(config.at, Client):
        if config.at.asynchronous or config.at.status != "running":
            raise ConfigError(
                f"cluster: the client is {'asynchronous' if config.at.asynchronous else config.at.status}; give one "
                "that is connected and was made without asynchronous=True."
            )
        yield ClusterConnection(config.at, config)
        return
    if isinstance(config.at, str) and not _ADDRESS.fullmatch(config.at):
        raise ConfigError(
            f"cluster: {given(config.at)} is no address of a Dask scheduler; write one such as 'tcp://head:8786'."
        )
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
    """A connected client with what a run keeps about it. Methods raise StudyError when the scheduler is gone."""

    def __init__(self, client: Any, config: Cluster) -> None:
        self.config = config
        self.sent: list[Sent] = []
        self.events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._client = client
        self._run = f"workbench-{uuid.uuid4().hex[:8]}"
        self._seen: set[str] = set()

    @property
    def run(self) -> str:
        """Name of this run on the cluster."""
        return self._run

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return str(self._client.scheduler.address)

    @property
    def dashboard(self) -> str:
        """Address of Dask's dashboard; empty where it serves none."""
        return str(self._client.dashboard_link or "")

    def __enter__(self) -> ClusterConnection:
        self._client.subscribe_topic(self._run, lambda event: self.events.put(("said", event[1])))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.unsubscribe_topic(self._run)

    def nodes(self, backends: Sequence[str], required: Collection[str], fingerprint: str) -> list[ClusterWorker]:
        """Return the workers that may time, asked what they are; waits for the first one.

        Raises
        ------
        ConfigError
            If there is none, or one has other versions than this process.
        BackendUnavailable
            If one of the ``required`` backends does not run on one of them.
        """
        end = time.monotonic() + self.config.timeout_s
        while not (there := self._workers()) and time.monotonic() < end:
            time.sleep(_POLL_S)
        if not able(there, gpu=self.config.gpu):
            tags = " and ".join(f"{name!r}" for name in needed(gpu=self.config.gpu))
            which = f"none of its {len(there)} workers has the resource {tags}" if there else "it has no worker"
            raise ConfigError(
                f"cluster {self.address}: {which}. Start some: {start_words(self.address, gpu=self.config.gpu)}"
            )
        found, refused = self.newcomers(backends, fingerprint)
        if refused:
            raise ConfigError(f"cluster {self.address}: {' '.join(refused)} Make them alike, or stop those workers.")
        for node in found:
            for name in required:
                if (reason := node.answer.backends.get(name)) is not None:
                    raise BackendUnavailable(f"Backend {name!r} cannot run on {node.words}: {reason}")
        return found

    def newcomers(self, backends: Sequence[str], fingerprint: str) -> tuple[list[ClusterWorker], list[str]]:
        """Return workers that were not seen before, and a sentence for each that cannot take part."""
        from workbench.study.cluster.worker_main import probe

        there = self._workers()
        self._seen &= set(there)  # one that comes back is asked again
        new = [address for address in able(there, gpu=self.config.gpu) if address not in self._seen]
        self._seen |= set(new)
        options = {"workers": new, "on_error": "return"}
        answers = self._client.run(probe, list(backends), fingerprint, **options) if new else {}
        found, refused = [], []
        for address, answer in answers.items():
            name = str(there[address].get("name", address))
            if not isinstance(answer, WorkerInfo):
                refused.append(f"Worker {name} cannot load this workbench: {type(answer).__name__}: {answer}.")
            elif apart := differences(this_site(), platform.python_version(), answer):
                refused.append(f"Worker {name} on {answer.host} has {', '.join(apart)}.")
            else:
                found.append(ClusterWorker(address, name, answer, dict(answer.held_blobs)))
        return found, refused

    def alive(self) -> set[str]:
        """Return the addresses of all workers that the scheduler knows."""
        return set(self._workers())

    def send(self, node: ClusterWorker, blob: Blob, fingerprint: str) -> None:
        """Send a parcel to a worker, unless its content lies there already."""
        from workbench.study.cluster.worker_main import keep

        if node.held_blobs.get(blob.name) == blob.digest:
            return
        self._client.run(keep, blob, fingerprint, workers=[node.address])
        node.held_blobs[blob.name] = blob.digest
        self.sent.append(Sent(node.name, blob.name, blob.digest, blob.size))

    def submit(self, node: ClusterWorker, order: ClusterJob, number: int) -> Any:
        """Start a unit on a worker; ``("ended", future)`` comes into :attr:`events` when it has."""
        from workbench.study.cluster.worker_main import do

        future = self._client.submit(
            do,
            order,
            key=f"{order.unit.words}-{self._run}-{number}",
            workers=[node.address],
            resources=needed(gpu=self.config.gpu),
            pure=False,
            retries=0,
        )
        future.add_done_callback(lambda done: self.events.put(("ended", done)))
        return future

    def result(self, future: Any, node: ClusterWorker) -> tuple[JobResult | None, str]:
        """Return what came of a unit that has ended, or None and why there is nothing."""
        if future.status == "error":
            error = future.exception()
            return None, f"failed in it ({type(error).__name__}: {error})"
        while future.status == "finished":
            try:
                return future.result(timeout=_GATHER_S), ""
            except TimeoutError:
                if node.address not in self.alive():
                    break
            except Exception as error:  # noqa: BLE001 - whatever a broken connection raises
                return None, f"did not deliver its result ({type(error).__name__}: {error})"
        return None, "ended before its result was fetched"

    def cancel(self, futures: Iterable[Any]) -> None:
        """Let tasks go: those of a lost worker, which Dask would keep for its return."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.cancel(list(futures))

    def halt(self, futures: Iterable[Any]) -> None:
        """Stop units that run, and wait until their processes are ended, at most 15 s."""
        from workbench.study.cluster.worker_main import halt

        end = time.monotonic() + _HALT_S
        with contextlib.suppress(Exception):  # the scheduler or workers may be gone: their units end by themselves
            while sum(self._client.run(halt, self._run, on_error="ignore").values()) and time.monotonic() < end:
                time.sleep(_POLL_S)
        self.cancel(futures)

    def _workers(self) -> dict[str, Any]:
        try:
            return dict(self._client.scheduler_info()["workers"])
        except (OSError, ValueError) as error:
            raise StudyError(
                f"The Dask scheduler at {self.address} no longer answers ({error}). What is complete is kept; run "
                "the study again when it is back."
            ) from error
