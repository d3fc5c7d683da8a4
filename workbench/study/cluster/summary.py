"""The summary of a run on a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.study.cluster.connection import Transfer
from workbench.study.cluster.job import Span
from workbench.study.execution.summary import RunSummary


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
