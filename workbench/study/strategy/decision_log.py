"""Log of a strategy's decisions: replayed by a resumed run, and shown in the report."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.core.config import short_id, without_nan
from workbench.core.errors import StudyError
from workbench.core.machine import fingerprint_id
from workbench.core.untrusted import parse_untrusted
from workbench.study.config import BUDGET_S, RunConfig
from workbench.study.plan.trials import Plan
from workbench.study.results.schema import TrialRow
from workbench.study.storage.database import Store
from workbench.study.storage.last_run import STRATEGY

_NEAR = 1.3
"""Budgets within this factor are one request: a resumed run has less time left than the first one had."""
_EMPTY: dict[str, Any] = {"facts": {}, "recipes": {}, "ended": False, "trials": [], "decisions": []}


@dataclass(frozen=True)
class Decision:
    """One decision: predicted and measured figures, the outcome and its reason.

    Speedups of candidates are relative to the leading variant without training.
    """

    stage: str
    subject: str
    outcome: str
    why: str
    predicted_speedup: float | None = None
    predicted_drop: float | None = None
    speedup: float | None = None
    drop: float | None = None


class DecisionLog:
    """The decisions of one request to one study.

    Decisions that depend on time are stored at once, and a run with the same request replays them: its recipes are
    equal, so that complete trials are reused.
    """

    def __init__(self, store: Store, study: str, question: Mapping[str, Any]) -> None:
        self._store, self._study = store, study
        self._name = f"{STRATEGY} {short_id(dict(question))}"
        stored = _read(store, study, self._name) or copy.deepcopy(_EMPTY)
        self.facts: dict[str, Any] = stored["facts"]
        self.recipes: dict[str, dict[str, Any]] = stored["recipes"]
        self._stored = [Decision(**values) for values in stored["decisions"]]
        self.decisions: list[Decision] = []
        self.ended = self.frozen = stored["ended"]
        self.trials: list[str] = stored["trials"]

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the stored fact, else make and store it, unless it is None or the plan has ended."""
        if name not in self.facts:
            if self.frozen:
                return None
            fact = make()
            if fact is None:
                return None
            self.facts[name] = fact
            self.save()
        return self.facts[name]

    def restart(self) -> None:
        """Clear the decisions, for a request with another budget."""
        self.facts, self.recipes, self.trials, self.ended, self.frozen = {}, {}, [], False, False

    def recipe(self, recipe: Recipe) -> Recipe:
        """Add a recipe to the plan, and return it."""
        if recipe.recipe_id not in self.recipes:
            self.recipes[recipe.recipe_id] = recipe.to_dict()
            self.save()
        return recipe

    def add(self, decision: Decision) -> None:
        """Add a decision."""
        self.decisions.append(decision)
        self.save()

    def end(self, trials: list[str]) -> None:
        """Mark the plan as complete, with the keys of its trials."""
        self.ended, self.trials = True, trials
        self.save()

    def finished_rows(self) -> list[TrialRow] | None:
        """Return the rows of a complete plan and keep its decisions; None if there is work left."""
        if not self.ended or not self.trials or not self._store.all_complete(self._study, self.trials):
            return None
        self.decisions = list(self._stored)
        self.save()
        return [trial.row for trial in self._store.load(self._study, self.trials).values()]

    def save(self) -> None:
        """Write the log."""
        values: dict[str, Any] = {
            "facts": self.facts, "recipes": self.recipes, "ended": self.ended, "trials": self.trials,
            "decisions": [asdict(decision) for decision in self.decisions],
        }  # fmt: skip
        values = without_nan(values)
        self._store.set_setting(self._study, self._name, {**values, "digest": short_id(values)})
        self._store.set_setting(self._study, STRATEGY, self._name)


def decision_log_for(store: Store, study: str, plan: Plan, fingerprint: str, config: RunConfig) -> DecisionLog:
    """Return the log of a request, with the decisions of an earlier run that had about the same budget."""
    question = {  # its digest names the log: also a value that never differs stays
        "task": fingerprint, "machine": fingerprint_id(), "limit": config.quality_drop, "backends": list(plan.backends),
        "points": [[point.batch, [list(pair) for pair in point.shape]] for point in plan.points],
        "threads": max(trial.threads for trial in plan.trials), "seed": config.seed, "depth": True,
        "baseline": plan.baseline(plan.primary).backend,
    }  # fmt: skip
    log = DecisionLog(store, study, question)
    budget = config.budget_s or BUDGET_S
    before = log.facts.setdefault("budget_s", budget)
    if abs(math.log(before / budget)) > math.log(_NEAR):
        log.restart()
        log.facts["budget_s"] = budget
    return log


@dataclass(frozen=True)
class PlanDecisions:
    """The stored decisions of the last default plan."""

    decisions: tuple[Decision, ...]
    recipe_ids: tuple[str, ...]
    ended: bool


def last_decisions(store: Store, study: str) -> PlanDecisions | None:
    """Return the decisions of the last default plan of a study, None if there was none."""
    name = store.setting(study, STRATEGY)
    stored = None if name is None else _read(store, study, name)
    if stored is None:
        return None
    decisions = tuple(Decision(**values) for values in stored["decisions"])
    return PlanDecisions(decisions, tuple(stored["recipes"]), stored["ended"])


def _read(store: Store, study: str, name: str) -> dict[str, Any] | None:
    """Return a stored log, or None; StudyError if it was changed."""
    values = store.setting(study, name)
    if values is None:
        return None
    return parse_untrusted(f"The setting {name!r} of {study!r}", values, _whole, error=StudyError)


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    content = {key: value for key, value in values.items() if key != "digest"}
    if content.keys() != _EMPTY.keys() or values["digest"] != short_id(content):
        raise ValueError("the digest differs")
    for decision in content["decisions"]:
        Decision(**decision)
    for recipe in content["recipes"].values():
        if Recipe.from_dict(recipe).functions:
            raise ValueError("recipes of a plan must not call functions")
    return copy.deepcopy(content)
