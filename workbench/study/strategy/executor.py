"""Carry the strategy's actions out through the processes of a run: prepare, probe, time, and evaluate."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.core.errors import TrialFailed
from workbench.core.machine import available_cores
from workbench.study.execution.job import RunSummary
from workbench.study.execution.local_executor import SITE, LocalExecutor
from workbench.study.execution.quality import QUALITY
from workbench.study.execution.run import BUDGET
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.plan.trials import Plan, Trial, planned
from workbench.study.results.ranking import pareto_rows
from workbench.study.results.schema import is_ranked
from workbench.study.strategy.deadline import GROUP_S, StrategyBudget, TrainingPruned, TrialDeadline, TrialTimeout
from workbench.study.strategy.decision_log import DecisionLog
from workbench.study.strategy.interface import PlanRequest, ProbeResult, StopCheck, TrialResult
from workbench.study.strategy.strategy import Strategy
from workbench.study.workers.timing_client import EngineProcess

_PACE = 40.0
"""The share of the budget, as a divisor, that the timing of one group may take."""
_SURVEY_S = 1.0
_NOT_JUDGED = "Not evaluated: this row is a survey of a combination that is known to gain nothing."


class StrategyRun(LocalExecutor):
    """A run whose trials are decided while it runs; it is the :class:`PlanExecutor` of its strategy.

    Its plan has the float model on every backend at every point; other arguments are those of :class:`LocalExecutor`.
    ``deadline`` is the cancel token of the preparing process.
    """

    _budget: StrategyBudget

    def __init__(self, *run: Any, question: PlanRequest, record: DecisionLog, deadline: TrialDeadline, **options: Any):
        super().__init__(*run, **options)
        self._question, self._record, self._deadline = question, record, deadline
        self._end = time.monotonic() + question.budget_s
        self._threads = max(trial.threads for trial in self._all.trials)
        self._known: dict[str, Recipe] = {recipe.recipe_id: recipe for recipe in self._all.recipes}
        self._low: dict[str, tuple[str, bool]] = {}
        self._watch: StopCheck | None = None
        self._strategy = Strategy(question, self, record)

    def work(self) -> RunSummary:
        """Carry the strategy out; errors as :meth:`workbench.study.execution.run.Run.work`."""
        return self._run.work({SITE: self._plan}, self._carry_out)

    def announce(self, plans: Mapping[str, Plan]) -> str:
        """Return a description of the strategy."""
        return self._strategy.words()

    def _carry_out(self) -> None:
        self._record.decisions.clear()
        try:
            self._strategy.run()
        finally:  # also if the budget ends in the middle
            self._run.cut += [
                f"{decision.subject}: not run. {decision.why}"
                for decision in self._record.decisions
                if decision.outcome == "not begun" and decision.stage != "data"
            ]
        self._record.end([row["trial_key"] for row in self._session.complete_rows()])

    # the executor of a strategy

    def remaining(self) -> float:
        return min(self._stop.remaining(), self._end - time.monotonic())

    def notify(self, message: str) -> None:
        self._session.notify(message)

    def measure(
        self,
        recipe: Recipe,
        backends: Sequence[str],
        *,
        limit_s: float,
        survey: str = "",
        judged: bool = True,
        watch: StopCheck | None = None,
    ) -> list[TrialResult]:
        base = self._all.baseline(self._all.primary)
        recipe = recipe if recipe.steps else base.recipe
        trials = [self._trial(recipe, backend, self._all.primary) for backend in backends]
        trials += [] if recipe.steps else self._all.references
        self._known[recipe.recipe_id] = recipe
        self._low |= {trial.key: (survey, judged) for trial in trials if survey}
        self._budget.timing_s = _SURVEY_S if survey else self._timing_s()
        self._deadline.limit(limit_s)
        self._watch = watch
        try:
            self._run_plan(base, trials, self._all.primary)
        finally:
            self._watch = None
            self._deadline.limit(math.inf)
        measured = trials if recipe.steps else list(dict.fromkeys((base, *trials)))
        return [self._result(trial) for trial in measured if trial.reference is None]

    def probe(
        self, recipes: Sequence[Recipe], *, engine: str | None, limit_s: float, watch: StopCheck | None = None
    ) -> list[ProbeResult]:
        base, results = self._all.baseline(self._all.primary), []
        options: dict[str, Any] = {"engine": engine, "batch_size": base.batch_size, "threads": self._threads}
        self._deadline.limit(limit_s)
        try:
            with self._machine_lock(exclusive=True) if available_cores() <= 4 else contextlib.nullcontext():
                for number, recipe in enumerate(recipes):
                    words = f"probing {recipe.name or recipe.label}"
                    listen = self._watched(self._session.following(words), watch)
                    try:
                        values = self._client.probe(recipe, listen, pace=engine is not None and number == 0, **options)
                        results.append(ProbeResult(**values))
                    except TrialTimeout as error:
                        self._client.close(kill=True)
                        self._session.notify(f"{words}: {error}")
                        break
                    except TrialFailed as error:
                        if isinstance(error, TrainingPruned):
                            self._client.close(kill=True)
                        results.append(ProbeResult(error=str(error)))
                        if number == 0 and len(recipes) > 1:
                            break  # nothing can be compared with a reference that failed
        finally:
            self._deadline.limit(math.inf)
        return results

    def finals(self) -> None:
        self._run.cut += super().hold_finals()

    def hold_finals(self) -> list[str]:
        """Return an empty list: the strategy has held the finals."""
        return []

    def others(self, recipes: Sequence[Recipe], *, limit_s: float) -> None:
        engines: dict[str, list[str]] = {}
        for row in self._session.complete_rows():
            if row["batch_size"] == self._all.primary.batch and is_ranked(row):
                engines.setdefault(row["recipe_id"], []).append(row["backend"])
        self._budget.timing_s = min(self._timing_s(), 3.0)
        for point in self._all.others:
            base = self._all.baseline(point)
            for recipe in recipes:
                backends = dict.fromkeys(engines.get(recipe.recipe_id, ()))
                trials = [self._trial(recipe, backend, point) for backend in backends]
                if not trials:
                    continue
                self._session.extend(*self._planned(base, trials, point))
                if not self._session.missing(trials):
                    continue
                if self._budget.group_fits():
                    self._run_plan(base, trials, point)
                else:
                    self._session.claim(trials)
                    self._run.leave_out(SITE, trials, primary=False)

    def best(self) -> str | None:
        row = self._session.best()
        return None if row is None else row["recipe_id"]

    def front(self) -> list[Recipe]:
        rows = [row for row in self._session.complete_rows() if row["batch_size"] == self._all.primary.batch]
        ids = dict.fromkeys(row["recipe_id"] for row in pareto_rows(rows, x="latency_ms_rel", y="quality"))
        return [self._known[recipe_id] for recipe_id in ids if recipe_id in self._known]

    def _timing_s(self) -> float:
        return min(max(self._question.budget_s / _PACE, 2.0), GROUP_S)

    def _trial(self, recipe: Recipe, backend: str, point: OperatingPoint) -> Trial:
        base = self._all.baseline(point)
        if not recipe.steps and backend == base.backend:
            return base  # its number of threads may be another one
        return planned(self._fingerprint, recipe, backend, point, self._threads, baseline=base.backend)

    def _planned(self, base: Trial, trials: Sequence[Trial], point: OperatingPoint) -> tuple[Plan, dict[str, Any]]:
        each = tuple(dict.fromkeys((base, *trials)))
        recipes = tuple(dict.fromkeys(trial.recipe for trial in each))
        backends = tuple(dict.fromkeys(trial.backend for trial in each))
        others = tuple(other for other in self._all.points if other != point)
        self._plan = Plan(each, recipes, backends, point, others, self._all.baseline_notes)
        return self._plan, self._plan.rows(self._task.name, self._fingerprint)

    def _run_plan(self, base: Trial, trials: Sequence[Trial], point: OperatingPoint) -> None:
        """Do the trials of one recipe at one point that are not complete, the baseline first if it is not."""
        self._session.extend(*self._planned(base, trials, point))
        if not self._session.missing(self._plan.trials):
            return
        for recipe in self._plan.recipes:
            if self._session.missing(self._plan.of(recipe)):
                self._budget.add(recipe)
        self._run.do({SITE: self._plan})

    def _replica(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the baseline trial if the noise floor is to be measured: at the primary point only."""
        return super()._replica(trials) if self._plan.primary == self._all.primary else None

    def _listener(self, trial: Trial) -> Callable[[dict[str, Any]], None]:
        return self._watched(super()._listener(trial), self._watch)

    def _watched(
        self, listen: Callable[[dict[str, Any]], None], watch: StopCheck | None
    ) -> Callable[[dict[str, Any]], None]:
        """Return a listener that also ends a training whose validation metric leaves no hope."""

        def both(event: dict[str, Any]) -> None:
            listen(event)
            metric, total = event["values"].get("metric"), event["total"]
            if watch is not None and metric is not None and total:
                reason = watch(event["done"] / total, metric)
                if reason is not None:
                    raise TrainingPruned(reason)

        return both

    def _unprepared(self, trials: Sequence[Trial], error: TrialFailed) -> None:
        """Leave what took too long waiting, and prune what was stopped for its quality."""
        if not isinstance(error, TrialTimeout | TrainingPruned):
            super()._unprepared(trials, error)
            return
        self._client.close(kill=True)
        if isinstance(error, TrialTimeout):
            self._session.cut(trials, f"{BUDGET}. {str(error).rstrip('.')}")
            return
        for trial in trials:
            self._session.prune(trial, str(error), {"notes": {}})

    def _quality(self, trial: Trial, arm: EngineProcess, reference: EngineProcess) -> dict[str, Any]:
        if not self._low.get(trial.key, ("", True))[1]:
            return {**dict.fromkeys(QUALITY), "notes": dict.fromkeys(QUALITY, _NOT_JUDGED)}
        return super()._quality(trial, arm, reference)

    def _validation(self, trial: Trial, arm: EngineProcess, reference: EngineProcess) -> dict[str, Any]:
        columns = super()._validation(trial, arm, reference)
        note = self._low.get(trial.key, ("", True))[0]
        if note:
            columns["fidelity"] = "survey"
            columns["notes"]["fidelity"] = note
        return columns

    def _result(self, trial: Trial) -> TrialResult:
        """Return what a trial's row and its preparation hold."""
        row, prepared = self._session.row(trial), self._prepared(trial) or {}
        steps = prepared.get("steps") or []
        trained = [s for s in steps if s["epochs_done"] and s["step"]["step"] == "Distill"]
        last = steps[-1] if steps else None
        rounding = last is not None and last["step"]["step"] == "Quantize"
        return TrialResult(
            recipe=trial.recipe,
            backend=trial.backend,
            state=row["state"],
            speedup=row["speedup"],
            speedup_high=row["speedup_high"],
            drop=row["quality_drop"],
            validation_drop=row["validation_drop"],
            quality=row["quality"],
            validation=prepared.get("validation_quality"),
            quantize_loss=last["quality_before"] - last["quality_after"] if last is not None and rounding else None,
            epoch_s=trained[-1]["seconds"] / trained[-1]["epochs_done"] if trained else None,
            reason=row["error"] or row["notes"].get("state") or "",
        )
