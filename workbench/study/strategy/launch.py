"""Start a run of the default plan: its question, its record in the store, and the run itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.compress.recipe import Recipe
from workbench.core.machine import fingerprint_id
from workbench.study.config import BUDGET_S, RunConfig
from workbench.study.plan.trials import Plan
from workbench.study.results.schema import TrialRow
from workbench.study.storage.database import Store
from workbench.study.strategy.axes import has_depth
from workbench.study.strategy.decision_log import DecisionLog
from workbench.study.strategy.interface import PlanRequest

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_NEAR = 1.3
"""Budgets within this factor are one question: a resumed run has less time left than the first one had."""


def plan_request(task: Task, plan: Plan, config: RunConfig) -> PlanRequest:
    """Return the question of a default plan; without a budget it is made for the default one."""
    return PlanRequest(
        limit=config.quality_drop,
        budget_s=config.budget_s or BUDGET_S,
        backends=plan.backends,
        train_samples=len(task.train) if task.has_train else 0,
        validation_samples=len(task.validation),
        points=len(plan.points),
        batch=plan.primary.batch,
        seed=config.seed,
    )


def decision_log_for(store: Store, study: str, plan: Plan, fingerprint: str, config: RunConfig) -> DecisionLog:
    """Return the record of a question, with the decisions of an earlier run that had about the same budget."""
    question = {
        "task": fingerprint, "machine": fingerprint_id(), "limit": config.quality_drop, "backends": list(plan.backends),
        "points": [[point.batch, [list(pair) for pair in point.shape]] for point in plan.points],
        "threads": max(trial.threads for trial in plan.trials), "seed": config.seed, "depth": has_depth(),
        "baseline": plan.baseline(plan.primary).backend,
    }  # fmt: skip
    record = DecisionLog(store, study, question)
    budget = config.budget_s or BUDGET_S
    before = record.facts.setdefault("budget_s", budget)
    if abs(math.log(before / budget)) > math.log(_NEAR):
        record.restart()
        record.facts["budget_s"] = budget
    return record


def first_part(plan: Plan) -> Plan:
    """Return the trials of the plan at the primary point: the rows that a run of the strategy begins with."""
    return replace(plan, trials=tuple(trial for trial in plan.trials if trial.point == plan.primary))


def float_only(seed: int) -> list[Recipe]:
    """Return the recipes that a plan of the strategy is made from."""
    return [Recipe(name="float", seed=seed)]


def finished_rows(record: DecisionLog, store: Store, study: str) -> list[TrialRow] | None:
    """Return the rows of a default plan that has ended, None if there is work left."""
    if not record.ended or not record.trials or not store.all_complete(study, record.trials):
        return None
    record.repeat()
    return [trial.row for trial in store.load(study, record.trials).values()]
