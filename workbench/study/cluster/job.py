"""The messages between a study and a worker of its cluster; neither needs the study's database."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.study.cluster.blobs import Blob
from workbench.study.execution.task_queue import WorkUnit
from workbench.study.plan.trials import Plan
from workbench.study.results.schema import TrialRow

WAITING = "waiting"


@dataclass(frozen=True)
class ClusterJob:
    """A unit with everything that its worker needs, apart from the blobs that were sent before.

    Attributes
    ----------
    run : str
        Name of the run, for its events and for a cancel.
    plan : Plan
        The unit's trials and their baseline.
    rows : dict of TrialRow
        Rows by key: the unit's own, the baseline's, and complete ones with the quality of the recipe.
    batch_sizes : tuple of int
        All of the study: an export without a dynamic batch writes an artifact for each.
    rounds, block_s, share_s
        As in :class:`workbench.study.execution.budget.TimeBudget`.
    seconds : float
        Time left of the run's budget; infinite without one.
    stall_s : float, optional
        Stall timeout of the worker's processes.
    worker : str
        The worker's name in the cluster, which may differ from Dask's name for it on the worker.
    shares_cores : bool
        True if other workers of the host may use its cores: then all its work waits for their timings.
    times : bool
        True if the unit times something, which a preparation does if steps are guided by latency.
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
