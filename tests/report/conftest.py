"""A report over rows that are there already, so that its pieces can be looked at without running anything."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paths import SUPPORT

from workbench.report.report import Report
from workbench.study.results.relative_latency import with_relative_latency
from workbench.study.strategy.decision_log import Decision

MAKE_ROWS = runpy.run_path(str(SUPPORT / "rows.py"))["make_rows"]


class FakeStudy:
    """Answers ``rows`` and fails, stops or succeeds in ``run`` as told."""

    def __init__(self, rows: list[dict[str, Any]], outcome: BaseException | None = None) -> None:
        self.kept, self.outcome, self.closed = rows, outcome, False
        self.asked: dict[str, Any] = {}
        self.ids: tuple[str, ...] = ()

    def planned(self) -> tuple[str, ...]:
        return self.ids

    def decisions(self) -> tuple[Decision, ...]:
        return (
            Decision("training", "8 blocks out", "kept", "It is within the limit.", 1.4, 0.005, 1.43, 0.004),
            Decision("survey", "sparsify", "not begun", "The time left is too short."),
        )

    def rows(self) -> list[dict[str, Any]]:
        return self.kept

    def run(self, recipes: Any = None, *, config: Any, **options: Any) -> Any:
        self.asked = {"recipes": recipes, **vars(config), **options}
        if self.outcome is not None:
            raise self.outcome
        return SimpleNamespace(cut=("not run, the time budget does not allow it: chain at batch 1",))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Return 54 complete rows: 6 recipes x 3 backends x 3 batch sizes."""
    return with_relative_latency(MAKE_ROWS())


@pytest.fixture
def make_report(tmp_path: Path) -> Any:
    """Return a function that makes a Report whose study has given rows."""

    def make(rows: list[dict[str, Any]], outcome: BaseException | None = None, **settings: Any) -> Report:
        report = Report(output_dir=str(tmp_path / "out"), **settings)
        study = FakeStudy(rows, outcome)
        study.ids = tuple(dict.fromkeys(row["recipe_id"] for row in rows if row["steps"]))
        task = SimpleNamespace(
            name="digits", reference="digits", evaluation=range(3005), train=range(6300), has_train=True
        )
        report.__dict__.update(study=study, task=task)
        return report

    return make
