"""The question of the last run of a study, so that rows are recommended as its report does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.core.errors import StudyError
from workbench.core.untrusted import parse_untrusted
from workbench.study.config import RunConfig
from workbench.study.results.schema import TrialRow, is_ranked
from workbench.study.storage.database import Store

ASKED, SEARCH, STRATEGY = "asked", "search", "strategy"
"""Settings of a study: the last run, the last search, and the log of the last default plan; None if there was none."""


@dataclass(frozen=True)
class LastRun:
    """The engines that were named, empty for the default, and the primary batch size, None if there was no run."""

    backends: tuple[str, ...] = ()
    batch_size: int | None = None

    @classmethod
    def of(cls, config: RunConfig) -> LastRun:
        """Return the question of a run.

        Examples
        --------
        >>> LastRun.of(RunConfig(batch_sizes=(1, 8)))
        LastRun(backends=(), batch_size=8)
        """
        return cls(config.backends or (), config.primary_batch)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {"backends": list(self.backends), "batch_size": self.batch_size}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LastRun:
        """Build from the values of :meth:`to_dict`."""
        return cls(tuple(map(str, values["backends"])), int(values["batch_size"]))

    def among(self, rows: list[TrialRow]) -> tuple[list[TrialRow], int | None]:
        """Return the rows of these engines and of baselines, and the batch size if one of them was judged at it."""
        kept = [row for row in rows if not self.backends or row["backend"] in self.backends or row["baseline"]]
        judged = {row["batch_size"] for row in kept if row["state"] == "complete" and is_ranked(row)}
        return kept, self.batch_size if self.batch_size in judged else None


def last_run(store: Store, study: str) -> LastRun:
    """Return the question of the last run of a study."""
    stored = store.setting(study, ASKED)
    if stored is None:
        return LastRun()
    return parse_untrusted(f"The setting {ASKED!r} of {study!r}", stored, LastRun.from_dict, error=StudyError)


def save_question(store: Store, study: str, config: RunConfig, *, default_plan: bool) -> None:
    """Store the question of a run, which replaces that of a search."""
    store.set_setting(study, "quality_drop", config.quality_drop)
    store.set_setting(study, ASKED, LastRun.of(config).to_dict())
    store.set_setting(study, SEARCH, None)
    if not default_plan:
        store.set_setting(study, STRATEGY, None)
