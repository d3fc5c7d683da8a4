"""The record of a strategy's decisions: repeated by a resumed run, and shown in the report."""

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

OUTCOMES = ("kept", "dropped", "survey", "not begun")


@dataclass(frozen=True)
class Decision:
    """One thing that was considered: what was predicted and measured, and why it was kept or dropped.

    Speedups of candidates are ``x int8`` if int8 alone leads, else of the leading variant without training.
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
    """Keeps JSON-ready values of a study: :class:`workbench.study.storage.database.Store`."""

    def setting(self, study: str, name: str) -> Any:
        """Return a value, or None."""

    def set_setting(self, study: str, name: str, value: Any) -> None:
        """Keep a value."""


class DecisionLog:
    """The decisions of one question to one study.

    Decisions that depend on the clock are kept when they are made, and a run that is asked the same question again
    repeats them: its recipes are equal, so that finished trials are reused.
    """

    def __init__(self, settings: Settings, study: str, question: Mapping[str, Any]) -> None:
        self._settings, self._study = settings, study
        self._name = f"{STRATEGY} {short_id(dict(question))}"
        known = _read(settings, study, self._name) or copy.deepcopy(_NOTHING)
        self.facts: dict[str, Any] = known["facts"]
        self.recipes: dict[str, dict[str, Any]] = known["recipes"]
        self._known = [Decision(**values) for values in known["decisions"]]
        self.decisions: list[Decision] = []
        self.ended = self.frozen = known["ended"]
        self.trials: list[str] = known["trials"]

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a fact: the one that was kept, else the one made now; None is not kept.

        After a plan has ended no new facts are made: running it again repeats it.
        """
        if name not in self.facts:
            if self.frozen:
                return None
            made = make()
            if made is None:
                return None
            self.facts[name] = made
            self.save()
        return self.facts[name]

    def restart(self) -> None:
        """Forget the decisions: the question has another budget now."""
        self.facts, self.recipes, self.trials, self.ended, self.frozen = {}, {}, [], False, False

    def recipe(self, recipe: Recipe) -> Recipe:
        """Note a recipe as part of the plan, and return it."""
        if recipe.recipe_id not in self.recipes:
            self.recipes[recipe.recipe_id] = recipe.to_dict()
            self.save()
        return recipe

    def add(self, decision: Decision) -> None:
        """Note a decision."""
        self.decisions.append(decision)
        self.save()

    def end(self, trials: list[str]) -> None:
        """Note that everything that was decided is done, with the keys of the trials."""
        self.ended, self.trials = True, trials
        self.save()

    def repeat(self) -> None:
        """Keep the decisions of the earlier run: nothing is left to do."""
        self.decisions = list(self._known)
        self.save()

    def save(self) -> None:
        """Write the record."""
        values: dict[str, Any] = {
            "facts": self.facts, "recipes": self.recipes, "ended": self.ended, "trials": self.trials,
            "decisions": [decision.to_dict() for decision in self.decisions],
        }  # fmt: skip
        values = without_nan(values)
        self._settings.set_setting(self._study, self._name, {**values, "digest": short_id(values)})
        self._settings.set_setting(self._study, STRATEGY, self._name)


@dataclass(frozen=True)
class PlanDecisions:
    """The decisions of the last run of a default plan, as the store holds them."""

    decisions: tuple[Decision, ...]
    recipe_ids: tuple[str, ...]
    ended: bool


def last_decisions(settings: Settings, study: str) -> PlanDecisions | None:
    """Return the decisions of the last default plan of a study, None if there was none."""
    name = settings.setting(study, STRATEGY)
    known = None if name is None else _read(settings, study, name)
    if known is None:
        return None
    decisions = tuple(Decision(**values) for values in known["decisions"])
    return PlanDecisions(decisions, tuple(known["recipes"]), known["ended"])


_NOTHING: dict[str, Any] = {"facts": {}, "recipes": {}, "ended": False, "trials": [], "decisions": []}


def _read(settings: Settings, study: str, name: str) -> dict[str, Any] | None:
    """Return a record, None if there is none; StudyError if it was changed since it was written, or is none."""
    values = settings.setting(study, name)
    if values is None:
        return None
    return parse_untrusted(f"The setting {name!r} of {study!r}", values, _whole, error=StudyError)


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in values.items() if key != "digest"}
    if found.keys() != _NOTHING.keys() or values["digest"] != short_id(found):
        raise ValueError("the digest differs")
    for values in found["decisions"]:
        Decision(**values)
    for recipe in found["recipes"].values():
        if Recipe.from_dict(recipe).functions:
            raise ValueError("no plan calls functions")
    return copy.deepcopy(found)
