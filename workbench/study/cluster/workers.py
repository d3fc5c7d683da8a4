"""The workers that take part in a run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from workbench.study.cluster.connection import ClusterConnection
from workbench.study.cluster.worker_info import ClusterWorker, by_site

_LOOK_S = 1.0
GONE_S = 60.0
"""Seconds without any worker of a kind after which its trials are left for another run."""


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
        return [site for site in sites if now - self._present_at[site] > GONE_S]
