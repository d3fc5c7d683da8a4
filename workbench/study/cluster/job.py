"""The messages between a study and a worker of its cluster, and the summary of a run there."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.study.cluster.blobs import Blob
from workbench.study.execution.job import RunSummary
from workbench.study.execution.task_queue import WorkUnit
from workbench.study.plan.trials import Plan
from workbench.study.results.schema import TrialRow

WAITING = "waiting"


@dataclass(frozen=True)
class ClusterJob:
    """A unit with everything that its worker needs, apart from the blobs that were sent before.

    ``run`` names the run for events and cancels. ``plan`` and ``rows`` hold the unit's trials, the baseline, and rows
    with the quality of the recipe. ``seconds`` are left of the budget. ``worker`` is the name in the cluster, which may
    differ from Dask's on the worker. If other workers of the host may use its cores (``shares_cores``), all its work
    waits for their timings; otherwise only what ``times`` something does.
    """

    run: str
    unit: WorkUnit
    plan: Plan
    rows: dict[str, TrialRow]
    fingerprint: str
    batch_sizes: tuple[int, ...]
    rounds: tuple[int, int]
    block_s: float
    share_s: float
    seconds: float
    prefix_cache: bool
    stall_s: float | None
    worker: str
    shares_cores: bool
    times: bool


@dataclass(frozen=True)
class Span:
    """The work of a worker between two times, in seconds since 1970 by the worker's clock.

    ``kind`` is ``"prepare"``, ``"time"`` or ``"waiting"``, for another worker of the host that was timing.
    """

    worker: str
    host: str
    kind: str
    words: str
    technique: str
    started: float
    ended: float


@dataclass(frozen=True)
class JobResult:
    """The result of a unit: rows and raw samples by name, or a blob, or an error.

    ``final`` is True for an error of the recipe, which another worker would repeat.
    """

    rows: dict[str, TrialRow] = field(default_factory=dict)
    samples: dict[str, bytes] = field(default_factory=dict)
    blob: Blob | None = None
    error: str | None = None
    final: bool = False
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Transfer:
    """A blob that was sent to a worker: its name (``"task"`` or an artifact key), the hash of its content, its size."""

    worker: str
    name: str
    digest: str
    size: int


@dataclass(frozen=True)
class ClusterSummary(RunSummary):
    """The summary of a run on a cluster.

    It adds the kinds of ``machines``, the address of Dask's ``dashboard``, the ``spans`` of work of each worker, which
    :func:`workbench.plots.plot_cluster` draws, and the ``transfers`` of tasks and artifacts to workers.
    """

    machines: tuple[str, ...] = ()
    dashboard: str = ""
    spans: tuple[Span, ...] = ()
    transfers: tuple[Transfer, ...] = ()

    @property
    def harness_s(self) -> None:
        """None: each machine has its own clock."""

    def __repr__(self) -> str:
        lines = [super().__repr__(), *(f"  {line}" for line in self.machines)]
        return "\n".join([*lines, *([f"  dashboard {self.dashboard}"] if self.dashboard else [])])
