"""Log of a strategy's decisions: replayed by a resumed run, and shown in the report."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from workbench.compress.recipe import Recipe
from workbench.core.config import short_id, without_nan
from workbench.core.errors import StudyError
from workbench.core.untrusted import parse_untrusted
from workbench.study.storage.last_run import STRATEGY


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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)


class Settings(Protocol):
    """Stores JSON-ready values of a study: :class:`workbench.study.storage.database.Store`."""

    def setting(self, study: str, name: str) -> Any:
        """Return a value, or None."""

    def set_setting(self, study: str, name: str, value: Any) -> None:
        """Store a value."""


class DecisionLog:
    """The decisions of one request to one study.

    Decisions that depend on time are stored at once, and a run with the same request replays them: its recipes are
    equal, so that complete trials are reused.
    """

    def __init__(self, settings: Settings, study: str, question: Mapping[str, Any]) -> None:
        self._settings, self._study = settings, study
        self._name = f"{STRATEGY} {short_id(dict(question))}"
        stored = _read(settings, study, self._name) or copy.deepcopy(_EMPTY)
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

    def repeat(self) -> None:
        """Keep the decisions of the earlier run."""
        self.decisions = list(self._stored)
        self.save()

    def save(self) -> None:
        """Write the log."""
        values: dict[str, Any] = {
            "facts": self.facts, "recipes": self.recipes, "ended": self.ended, "trials": self.trials,
            "decisions": [decision.to_dict() for decision in self.decisions],
        }  # fmt: skip
        values = without_nan(values)
        self._settings.set_setting(self._study, self._name, {**values, "digest": short_id(values)})
        self._settings.set_setting(self._study, STRATEGY, self._name)


@dataclass(frozen=True)
class PlanDecisions:
    """The stored decisions of the last default plan."""

    decisions: tuple[Decision, ...]
    recipe_ids: tuple[str, ...]
    ended: bool


def last_decisions(settings: Settings, study: str) -> PlanDecisions | None:
    """Return the decisions of the last default plan of a study, None if there was none."""
    name = settings.setting(study, STRATEGY)
    stored = None if name is None else _read(settings, study, name)
    if stored is None:
        return None
    decisions = tuple(Decision(**values) for values in stored["decisions"])
    return PlanDecisions(decisions, tuple(stored["recipes"]), stored["ended"])


_EMPTY: dict[str, Any] = {"facts": {}, "recipes": {}, "ended": False, "trials": [], "decisions": []}


def _read(settings: Settings, study: str, name: str) -> dict[str, Any] | None:
    """Return a stored log, or None; StudyError if it was changed."""
    values = settings.setting(study, name)
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
