"""What a worker is told to do, and what it gives back: nothing that needs the study's database."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.study.cluster.blobs import Blob
from workbench.study.cluster.tasks import WorkUnit
from workbench.study.plan.trials import Plan
from workbench.study.results.schema import TrialRow

WAITING = "waiting"


@dataclass(frozen=True)
class ClusterJob:
    """One unit with all that its worker must know, beside the parcels that lie there already.

    Attributes
    ----------
    run : str
        Names the run, for its events and for a cancel.
    plan : Plan
        The unit's trials and the baseline beside them.
    rows : dict of TrialRow
        Rows by key: the unit's own, and finished ones that hold the baseline's pace and the recipe's quality.
    batch_sizes : tuple of int
        All of the study: where an export allows no dynamic batch, each gets an artefact.
    rounds, block_s, share_s
        How long to time, as :class:`workbench.study.execution.budget.TimeBudget` tells.
    seconds : float
        What is left of the run's budget; infinite without one.
    stall_s : float, optional
        How long a process of the worker may work without a sign of life.
    worker : str
        What the cluster calls the worker; within it Dask may tell another name.
    shares : bool
        Whether other workers of the host may use its cores: then whatever it does waits for their timings.
    times : bool
        Whether anything is timed: in a preparation that is so where steps go by latency.
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
    shares: bool
    times: bool


@dataclass(frozen=True)
class Span:
    """What a worker did from when to when, in seconds since 1970 by its own clock.

    ``kind`` is ``"prepare"``, ``"time"`` or ``"waiting"``: for another worker of the host that was timing.
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
    """What came of a unit: rows and raw samples by name, or a parcel, or the reason why neither.

    ``refused`` says that the recipe failed, which no other worker would do better.
    """

    rows: dict[str, TrialRow] = field(default_factory=dict)
    samples: dict[str, bytes] = field(default_factory=dict)
    blob: Blob | None = None
    error: str | None = None
    refused: bool = False
    spans: tuple[Span, ...] = ()
