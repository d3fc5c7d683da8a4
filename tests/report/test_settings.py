"""Budgets and limits of a report."""

from __future__ import annotations

import time
from typing import Any

import pytest

from workbench.core.errors import ConfigError
from workbench.report.settings import LEAST_STUDY_S, RESERVE_S, ReportSettings
from workbench.study.config import BUDGET_S


def test_the_default_budget_depends_on_the_task() -> None:
    assert ReportSettings(task="digits").budget == 200
    assert ReportSettings(task="mine.py:task").budget == BUDGET_S == 1200
    assert ReportSettings(task="digits", budget_s=90).budget == 90


def test_what_starting_took_is_not_the_studys_to_spend() -> None:
    asked = ReportSettings(budget_s=100)
    assert asked.study_budget == asked.seconds_left() == 100 - RESERVE_S
    late = asked.replace(started_at=time.time() - 60)
    assert late.study_budget == asked.study_budget
    assert late.seconds_left() < 40
    assert asked.replace(started_at=time.time() - 1000).seconds_left() == LEAST_STUDY_S


def test_the_recommendation_is_at_32_where_it_is_measured() -> None:
    assert ReportSettings(batch_sizes=(1, 32, 64)).batch_size == 32
    assert ReportSettings(batch_sizes=(1, 8)).batch_size == 8


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"task": " "}, "task must not be empty"),
        ({"budget_s": 5}, "at least 30 seconds"),
        ({"budget_s": -1}, "at least 0"),
        ({"batch_sizes": ()}, "different whole numbers"),
        ({"batch_sizes": (8, 8)}, "different whole numbers"),
        ({"batch_sizes": (0,)}, "different whole numbers"),
        ({"backends": ("onnxruntim",)}, "Did you mean 'onnxruntime'"),
        ({"quality_drop": -0.1}, "at least 0"),
        ({"threads": -2}, "at least 0"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ReportSettings(**wrong)
