"""The loop of a search."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from typing import Any

from workbench.core.progress import Progress, ProgressCallback
from workbench.study.results.schema import TrialRow
from workbench.study.search.executor import SearchRun
from workbench.study.search.goals import Objective
from workbench.study.search.history import COMPLETE, FAILED, INTERRUPTED, PRUNED, counts
from workbench.study.search.sampler import OptunaSampler, PendingTrial
from workbench.study.search.space import Space
from workbench.study.search.starting_points import crossover

Place = tuple[tuple[str, Any], ...]
"""The parameters of a point, sorted by name."""
STUCK, IDLE = 8, 50
"""Known points in a row until a finite space gets an unknown point, and until the search ends."""
TOO_LONG = 20
"""Points in a row that exceed the time left, until the search ends."""
_SHOWN = (
    *("recipe", "technique", "backend", "batch_size", "threads", "engine_json", "validation_drop", "latency_ms_p50"),
    *("throughput_per_s", "speedup", "peak_rss_mib", "size_mib", "params", "macs"),
)
"""Columns in Optuna's tables: none of the evaluation split."""


class SearchLoop:
    """The loop of one search; see :meth:`run`.

    Parameters
    ----------
    trials : int
        Number of distinct points at the end, with those of earlier calls.
    best : callable
        Returns the recommended row, or None.
    follow : bool
        After a point that trained, enqueue its crossover with the best point.
    """

    def __init__(
        self,
        space: Space,
        question: Objective,
        proposer: OptunaSampler,
        runner: SearchRun,
        *,
        trials: int,
        best: Callable[[], TrialRow | None],
        progress: ProgressCallback,
        follow: bool = False,
    ) -> None:
        self._space, self._question, self._sampler, self._runner = space, question, proposer, runner
        self._trials, self._best, self._progress, self._follow = trials, best, progress, follow
        self._done = 0
        self.new = self.reused = 0

    def run(self) -> str:
        """Search until the trials or the points of the space are used up; return the reason for the end.

        After OutOfTime or Cancelled from the runner, the next call proposes the interrupted point again.
        """
        idle = too_long = 0
        while True:
            records = self._sampler.records()
            self._done = sum(counts(records).values())
            if self._done >= self._trials:
                return f"all {self._done} trials were run"
            places = {_place(one.params) for one in records if one.state != INTERRUPTED}
            if self._space.size is not None and len(places) >= self._space.size:
                return f"the whole space was searched ({self._space.size} points)"
            if idle and idle % STUCK == 0:
                self._enqueue_unknown(places, seed=len(records))
            if idle >= IDLE:
                return f"the sampler proposed {IDLE} known points in a row"
            pending = self._sampler.ask()
            fits = pending.proposal is None or self._runner.fits(self._runner.trial(pending.proposal))
            if too_long < TOO_LONG and not fits:
                too_long += 1
                self._sampler.tell(pending, INTERRUPTED, reason="Skipped: the time left was too short.")
                continue
            too_long = 0
            try:
                fresh = self._answer(pending, {one.trial_key for one in records if one.state != INTERRUPTED})
            except BaseException:
                self._sampler.requeue(pending)
                raise
            idle = 0 if fresh else idle + 1
            if fresh and self._follow and pending.proposal is not None:
                self._enqueue_crossover(pending)

    def _enqueue_crossover(self, pending: PendingTrial) -> None:
        """Enqueue the trained steps of a point with the rest of the best point, unless that is known."""
        records = self._sampler.records()
        better = max if self._question.directions[0] == "maximize" else min
        held = [one for one in records if one.holds and one.values]
        this = next(one for one in records if one.number == pending.trial.number)
        if not held or this.state != COMPLETE:
            return
        best = better(held, key=lambda one: one.values[0] if one.values else 0.0)
        point = crossover(self._space, this.params, best.params)
        if point is not None and _place(point) not in {_place(one.params) for one in records}:
            self._sampler.enqueue(point)

    def _enqueue_unknown(self, places: Collection[Place], *, seed: int) -> None:
        """Enqueue an unknown point, because a converged sampler repeats known ones."""
        if self._space.size is not None:
            left = [point for point in self._space.points() if _place(point) not in places]
            if left:  # another process may have run the last ones
                self._sampler.enqueue(random.Random(seed).choice(left))

    def relay(self, event: Progress) -> None:
        """Relay the progress of a run, counted in points of the search."""
        values = dict(event.values)
        if "best" in values:
            values["best"] = self._best()
        self._report(event.message, values)

    def _answer(self, pending: PendingTrial, known_keys: Collection[str | None]) -> bool:
        """Run one point or take its row; return True if the point is new."""
        if pending.proposal is None:
            self._sampler.tell(pending, FAILED, reason=pending.error)
            return True
        trial = self._runner.trial(pending.proposal)
        self._sampler.set_trial_key(pending, trial.key)
        row, did = self._runner.do(trial)
        fresh = trial.key not in known_keys
        self.new, self.reused = self.new + did, self.reused + (not did)
        self._tell(pending, row, self._runner.baseline(trial), reused=not did)
        self._done += fresh
        best, state = self._best(), "finished" if row["state"] == COMPLETE else row["state"]
        so_far = "no row meets the goals yet" if best is None else f"best so far: {best['recipe']} on {best['backend']}"
        words = f"{trial.words}: {state if did else f'known already ({state})'}; {so_far}"
        self._report(words, {"row": row, "best": best})
        return fresh

    def _tell(self, pending: PendingTrial, row: TrialRow, base: TrialRow, *, reused: bool) -> None:
        shown = {name: row[name] for name in _SHOWN if row[name] is not None}  # type: ignore[literal-required]
        excess = self._question.goals.excess(row, base=base, drop="validation_drop")
        values = self._question.values(row, base) if row["state"] == COMPLETE else row["error"]
        if isinstance(values, list):
            self._sampler.tell(pending, COMPLETE, values=values, excess=excess, row=shown, reused=reused)
            return
        state = PRUNED if row["state"] == PRUNED else FAILED
        self._sampler.tell(pending, state, excess=excess, row=shown, reason=values, reused=reused)

    def _report(self, message: str, values: Mapping[str, Any]) -> None:
        self._progress(Progress("search", min(self._done, self._trials), self._trials, message, values))


def _place(params: Mapping[str, Any]) -> Place:
    # rounded, because the steps of a range accumulate errors
    return tuple(sorted((name, round(v, 9) if isinstance(v, float) else v) for name, v in params.items()))
