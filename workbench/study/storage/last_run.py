"""What the last run of a study asked for, so that its rows are recommended as its report did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.core.errors import StudyError
from workbench.core.untrusted import parse_untrusted
from workbench.study.results.schema import TrialRow, is_ranked
from workbench.study.storage.database import Store

ASKED = "asked"
"""Name of the setting."""
_USUAL = 32


@dataclass(frozen=True)
class LastRun:
    """The engines that were asked for, empty if none were named, and the primary batch size, None if not known."""

    backends: tuple[str, ...] = ()
    batch_size: int | None = None

    @classmethod
    def of(cls, backends: Sequence[str] | None, batch_sizes: Sequence[int]) -> LastRun:
        """Return it of the arguments of :meth:`Study.run`.

        Examples
        --------
        >>> LastRun.of(None, (1, 8))
        LastRun(backends=(), batch_size=8)
        """
        return cls(tuple(backends or ()), _USUAL if _USUAL in batch_sizes else max(batch_sizes))

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
    """Return what the last run of a study asked for."""
    known = store.setting(study, ASKED)
    if known is None:
        return LastRun()
    return parse_untrusted(f"The setting {ASKED!r} of {study!r}", known, LastRun.from_dict, error=StudyError)
