"""What a run on a cluster did, and where."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.study.cluster.connection import Sent
from workbench.study.cluster.job import Span
from workbench.study.execution.summary import RunSummary


@dataclass(frozen=True)
class ClusterSummary(RunSummary):
    """What a run on a cluster did.

    Attributes
    ----------
    machines : tuple of str
        The kinds of machine that took part, and what it means where there are several.
    dashboard : str
        Address of Dask's dashboard.
    spans : tuple of Span
        Which worker did what from when to when; :func:`workbench.plots.plot_cluster` draws them.
    sent : tuple of Sent
        Which task and artefacts went to which worker.
    """

    machines: tuple[str, ...] = ()
    dashboard: str = ""
    spans: tuple[Span, ...] = ()
    sent: tuple[Sent, ...] = ()

    @property
    def harness_s(self) -> None:
        """Not known: each machine has a clock of its own."""

    def __repr__(self) -> str:
        lines = [super().__repr__(), *(f"  {line}" for line in self.machines)]
        return "\n".join([*lines, *([f"  dashboard {self.dashboard}"] if self.dashboard else [])])
