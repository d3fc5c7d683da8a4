"""Which workers take part in a run, as they come and go."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

from workbench.study.cluster.connection import ClusterConnection
from workbench.study.cluster.worker_info import ClusterWorker, by_site

_LOOK_S = 1.0
GONE_S = 60.0
"""Seconds without any worker of a kind after which its trials are left for another run."""


class ClusterWorkers:
    """The workers of a run; new ones of a kind that it began with join it.

    Parameters
    ----------
    nodes : sequence of Node
        Those that it begins with.
    backends : sequence of str
        What a worker must be able to run.
    fingerprint : str
        Of the task.
    """

    def __init__(
        self, link: ClusterConnection, nodes: Sequence[ClusterWorker], backends: Sequence[str], fingerprint: str
    ) -> None:
        self.nodes = list(nodes)
        self._link, self._backends, self._fingerprint = link, backends, fingerprint
        self._kinds = frozenset(by_site(nodes))
        self._looked = 0.0
        self._here_at = dict.fromkeys(self._kinds, time.monotonic())

    def idle(self, busy: Collection[str]) -> list[ClusterWorker]:
        """Return the workers whose addresses are not among ``busy``."""
        return [node for node in self.nodes if node.address not in busy]

    def addresses(self, site: str) -> set[str]:
        """Return the addresses of the workers of one kind."""
        return {node.address for node in self.nodes if node.site.fingerprint == site}

    def hosts(self, site: str) -> int:
        """Return on how many hosts workers of one kind are."""
        return len({node.answer.host for node in self.nodes if node.site.fingerprint == site})

    def drop(self, node: ClusterWorker) -> None:
        """Take a worker off that is gone."""
        self.nodes = [other for other in self.nodes if other is not node]

    def look(self) -> tuple[list[ClusterWorker], list[str]]:
        """Look once a second; return who has gone, and a sentence about each newcomer that is not taken."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return [], []
        self._looked = now
        alive = self._link.alive()
        lost = [node for node in self.nodes if node.address not in alive]
        found, refused = self._link.newcomers(self._backends, self._fingerprint)
        for node in found:
            unfit = [name for name in self._backends if node.answer.backends.get(name) is not None]
            if node.site.fingerprint in self._kinds and not unfit:
                self.nodes.append(node)
            else:
                why = f"cannot run {', '.join(unfit)}" if unfit else "is of another kind than those this run began with"
                refused.append(f"{node.words} {why}.")
        return lost, refused

    def deserted(self, sites: Iterable[str]) -> list[str]:
        """Return those of ``sites`` that have had no worker for a minute."""
        here, now = by_site(self.nodes), time.monotonic()
        self._here_at |= dict.fromkeys(here, now)
        return [site for site in sites if now - self._here_at[site] > GONE_S]
