"""The loop of a search: ask Optuna, have the trial done or take its kept row, tell Optuna, until something ends it."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from workbench.core.progress import Progress, ProgressCallback
from workbench.study.plan.trials import Trial
from workbench.study.results.schema import TrialRow
from workbench.study.search.goals import Objective
from workbench.study.search.history import COMPLETE, FAILED, INTERRUPTED, PRUNED, TrialRecord, distinct
from workbench.study.search.sampler import OptunaSampler, PendingTrial
from workbench.study.search.space import Proposal, Space
from workbench.study.search.warm_start import crossover

STUCK, IDLE = 8, 50
"""So many known points in a row bring in one that is not, where the space can be gone through; and end the search."""
TOO_LONG = 20
"""So many points in a row for which the time is too short end the search."""
_TOLD = (
    *("recipe", "technique", "backend", "batch_size", "threads", "engine_json", "validation_drop", "latency_ms_p50"),
    *("throughput_per_s", "speedup", "peak_rss_mib", "size_mib", "params", "macs"),
)
"""What Optuna's tables show of a row: nothing of the evaluation split."""


class Runner(Protocol):
    """What carries trials out: :class:`workbench.study.search.executor.SearchRun`."""

    def trial(self, proposal: Proposal) -> Trial:
        """Return the trial of a proposal."""

    def fits(self, trial: Trial) -> bool:
        """Return False where the time left is enough for other points but not for this one."""

    def do(self, trial: Trial) -> tuple[TrialRow, bool]:
        """Return the row of a trial, and whether anything had to be done for it."""

    def baseline(self, trial: Trial) -> TrialRow:
        """Return the row of the baseline at the trial's point."""


class SearchLoop:
    """See :meth:`work`.

    Parameters
    ----------
    trials : int
        How many different points the search has tried in the end, those of earlier calls included.
    best : callable
        Returns the row that would be recommended now, or None.
    follow : bool
        After a point that trained something, propose the same with the rest of the best one so far.
    """

    def __init__(
        self,
        space: Space,
        question: Objective,
        proposer: OptunaSampler,
        runner: Runner,
        *,
        trials: int,
        best: Callable[[], TrialRow | None],
        progress: ProgressCallback,
        follow: bool = False,
    ) -> None:
        self._space, self._question, self._proposer, self._runner = space, question, proposer, runner
        self._trials, self._best, self._progress = trials, best, progress
        self._follow = follow
        self._done = 0
        self.new = self.reused = 0

    def work(self) -> str:
        """Search until the trials or the points of the space are used up, and return in words why it ended.

        Raises
        ------
        OutOfTime, Cancelled
            As the runner: what was being done is proposed again by the next call.
        """
        idle = too_long = 0
        while True:
            tried = self._proposer.tried()
            self._done = distinct(tried)
            if self._done >= self._trials:
                return f"{self._done} different points were tried, as many as asked for"
            if self._space.size is not None and _places(tried) >= self._space.size:
                return f"the whole space was gone through ({self._space.size} different points)"
            if idle and idle % STUCK == 0:
                self._leave_the_known(tried)
            if idle >= IDLE:
                return f"the last {IDLE} points proposed were known already: the sampler has nothing new"
            asked = self._proposer.ask()
            if too_long < TOO_LONG and self._is_too_long(asked):
                too_long += 1
                self._proposer.drop(asked, "Not begun: the time left was too short for it.")
                continue
            too_long = 0
            try:
                fresh = self._answer(asked, {one.trial_key for one in tried if one.state != INTERRUPTED})
            except BaseException:  # a kill leaves it too, and take_up finds it
                self._proposer.requeue(asked)
                raise
            idle = 0 if fresh else idle + 1
            if fresh and self._follow and asked.proposal is not None:
                self._follow_up(asked)

    def _is_too_long(self, asked: PendingTrial) -> bool:
        return asked.proposal is not None and not self._runner.fits(self._runner.trial(asked.proposal))

    def _follow_up(self, asked: PendingTrial) -> None:
        """Propose what was trained with the engine and the untrained steps of the best point, unless that is known."""
        tried = self._proposer.tried()
        better = max if self._question.directions[0] == "maximize" else min
        held = [one for one in tried if one.holds and one.values]
        this = next(one for one in tried if one.number == asked.number)
        if not held or this.state != COMPLETE:
            return
        best = better(held, key=lambda one: one.values[0] if one.values else 0.0)
        point = crossover(self._space, this.params, best.params)
        if point is not None and _place(point) not in {_place(one.params) for one in tried}:
            self._proposer.propose(point)

    def _leave_the_known(self, tried: Sequence[TrialRecord]) -> None:
        """Propose a point that was not tried: a sampler that has settled would go round in circles."""
        if self._space.size is not None:
            known = {_place(one.params) for one in tried if one.state != INTERRUPTED}
            left = [point for point in self._space.points() if _place(point) not in known]
            if left:  # another process may have tried the last ones
                self._proposer.propose(random.Random(len(tried)).choice(left))

    def relay(self, event: Progress) -> None:
        """Pass on what a run reports, counted in points of the search."""
        values = dict(event.values)
        if "best" in values:
            values["best"] = self._best()
        self._say(event.message, values)

    def _answer(self, asked: PendingTrial, known: Collection[str | None]) -> bool:
        """Have one point answered, and say whether it is none of those known."""
        if asked.proposal is None:
            self._proposer.tell(asked, FAILED, reason=asked.error)
            return True
        trial = self._runner.trial(asked.proposal)
        self._proposer.name(asked, trial.key)
        row, did = self._runner.do(trial)
        fresh = trial.key not in known
        self.new, self.reused = self.new + did, self.reused + (not did)
        self._tell(asked, row, self._runner.baseline(trial), reused=not did)
        self._done += fresh
        self._say(self._words(trial, row, did=did), {"row": row, "best": self._best()})
        return fresh

    def _tell(self, asked: PendingTrial, row: TrialRow, base: TrialRow, *, reused: bool) -> None:
        known = {name: row[name] for name in _TOLD if row[name] is not None}  # type: ignore[literal-required]
        excess = self._question.goals.excess(row, base=base, drop="validation_drop")
        values = self._question.values(row, base) if row["state"] == COMPLETE else row["error"]
        if isinstance(values, list):
            self._proposer.tell(asked, COMPLETE, values=values, excess=excess, row=known, reused=reused)
            return
        state = PRUNED if row["state"] == PRUNED else FAILED
        self._proposer.tell(asked, state, excess=excess, row=known, reason=values, reused=reused)

    def _words(self, trial: Trial, row: TrialRow, *, did: bool) -> str:
        state = {COMPLETE: "finished"}.get(row["state"], row["state"])
        best = self._best()
        so_far = (
            "nothing holds the goals yet" if best is None else f"best so far: {best['recipe']} on {best['backend']}"
        )
        return f"{trial.words}: {state if did else f'known already ({state})'}; {so_far}"

    def _say(self, message: str, values: Mapping[str, Any]) -> None:
        self._progress(Progress("search", min(self._done, self._trials), self._trials, message, values))


def _places(tried: Sequence[TrialRecord]) -> int:
    """Return how many different parameters were tried."""
    return len({_place(one.params) for one in tried if one.state != INTERRUPTED})


def _place(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    # steps of a range add up to a little beside the numbers that are meant
    return tuple(sorted((name, round(v, 9) if isinstance(v, float) else v) for name, v in params.items()))
