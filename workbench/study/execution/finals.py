"""Finals: time the leading rows within the limit head to head, instead of each one against the baseline only."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.core.stats import verdict
from workbench.study.execution.budget import TimeBudget
from workbench.study.execution.timing_columns import NoiseFloors, baseline_columns, timed_columns
from workbench.study.execution.timing_pool import GroupTiming, TimingPool
from workbench.study.plan.trials import Plan, Trial
from workbench.study.results.quality_limits import may_exceed, within_limit
from workbench.study.results.relative_latency import relative_latencies
from workbench.study.results.schema import TrialRow, is_ranked
from workbench.study.results.winner import TIED
from workbench.study.storage.session import RunSession
from workbench.timing.blocks import Block
from workbench.timing.pace import PaceRatio, pace_ratio

FINALISTS = 3
FINALS_S = 12.0
LEAST_S = 8.0
"""Seconds of the budget below which there are no finals: starting the processes takes some of them."""
_LONGER = 3
"""Factor on the maximum number of rounds of a group."""
_RESAMPLES = 300
BEYOND = " Its drop may be beyond the limit, by its 95 % CI."


@dataclass(frozen=True)
class FinalRank:
    """A finalist's rank, with the ratio of its latency to the winner's (None for the winner)."""

    trial: Trial
    rank: int
    ratio: PaceRatio | None
    tied: bool

    def note(self, winner: str) -> str:
        """Return the note of the row."""
        if self.ratio is None:
            return "First in head-to-head timing."
        ci = f"{self.ratio.ratio:.2f} times its latency, 95 % CI {self.ratio.low:.2f}-{self.ratio.high:.2f}"
        return f"{TIED if self.tied else 'Slower than'} {winner} in head-to-head timing ({ci})."


def leading(items: Sequence[tuple[Trial, TrialRow]], limit: float) -> list[Trial]:
    """Return the fastest trial within the quality limit and at most two whose 95 % CI reaches that of the fastest."""
    latencies = relative_latencies([row for _, row in items])
    rivals = [
        (latency, trial)
        for (trial, row), latency in zip(items, latencies, strict=True)
        if row["state"] == "complete" and is_ranked(row) and latency.ms is not None
        if row["quality_drop"] is not None and within_limit(row["quality_drop"], limit, quality=row["quality"])
    ]
    rivals.sort(key=lambda rival: rival[0].ms or math.inf)
    if not rivals:
        return []
    first, _ = rivals[0]
    reach = first.high if first.high is not None else first.ms
    near = [trial for latency, trial in rivals if (latency.low or latency.ms or math.inf) <= (reach or 0.0)]
    return near[:FINALISTS]


def standings(
    timed: Mapping[Trial, Sequence[Block]],
    sizes: Mapping[Trial, float | None],
    floor: float,
    *,
    unsure: Collection[Trial] = (),
) -> list[FinalRank]:
    """Rank trials that were timed interleaved: by pace, and ties with the fastest by quality and size.

    ``sizes`` are those of the files in MiB, None counts as largest. ``unsure`` are the trials whose drop may be beyond
    the limit by its 95 % CI: of a tie the others come first.
    """
    trials = list(timed)
    fastest = max(trials, key=lambda trial: pace_ratio(timed[trials[0]], timed[trial]).ratio)

    def tied(trial: Trial) -> bool:
        ratio = pace_ratio(timed[trial], timed[fastest], floor=floor)
        return trial is fastest or verdict(ratio.low, ratio.high, floor=floor) != "faster"

    level = [trial for trial in trials if tied(trial)]
    mib = {trial: math.inf if size is None else size for trial, size in sizes.items()}
    winner = min(level, key=lambda trial: (trial in unsure, mib[trial], trial is not fastest))
    ratios = {trial: pace_ratio(timed[trial], timed[winner], floor=floor) for trial in trials if trial is not winner}
    order = [winner, *sorted(ratios, key=lambda trial: (trial not in level, ratios[trial].ratio))]
    return [FinalRank(trial, rank, ratios.get(trial), trial in level) for rank, trial in enumerate(order, start=1)]


def run_finals(plan: Plan, session: RunSession, pool: TimingPool, floors: NoiseFloors, budget: TimeBudget) -> None:
    """Time the leading trials and the baseline at the primary point, and write ranks and speedups into their rows.

    Under load the faster thread count of torch eager may have changed since the plan was made. The other count is timed
    too, and becomes the baseline of the finalists if it is faster now.
    """
    if not session.finished:
        return
    items = [(trial, row) for trial, row in session.every_item() if trial.point == plan.primary]
    trials = leading(items, session.quality_drop)
    base = plan.baseline(plan.primary)
    rivals = [trial for trial in trials if trial.key != base.key]
    if not rivals:
        return
    if len(trials) == 1:
        session.amend(trials[0], {"final_rank": 1, "notes": {"final_rank": "No other row is near in latency."}})
        return
    session.notify(f"finals: {', '.join(f'{trial.name} on {trial.engine_words}' for trial in trials)}")
    other = other_threads(base, max(trial.threads for trial in plan.trials))
    arms = [*rivals, *([other] if other is not None else [])]
    floor = floors.of(base).floor

    def decided(blocks: Mapping[str, list[Block]]) -> bool:
        first, *rest = [blocks[trial.key] for trial in rivals if trial.key in blocks] or [[]]
        ratios = [pace_ratio(one, first, floor=floor, resamples=_RESAMPLES) for one in rest]
        return all(verdict(ratio.low, ratio.high, floor=floor) != "undecided" for ratio in ratios)

    timed = pool.time(
        arms,
        base,
        after_round=lambda number: session.notify(f"finals: round {number}"),
        rounds=(budget.rounds[0], _LONGER * budget.rounds[1]),
        block_s=budget.block_s,
        budget_s=FINALS_S,
        enough=decided,
        footprint=False,
    )
    pool.end([trial.key for trial in arms])
    finalists = [trial for trial in trials if trial.key in timed.arms]
    if finalists:
        _write(timed, finalists, _faster_baseline(timed, base, other, session, floors), base, session, floors)


def other_threads(base: Trial, threads: int) -> Trial | None:
    """Return the baseline at the other one of 1 and ``threads``, None if there is one count only."""
    count = threads if base.threads == 1 else 1
    if base.backend != "torch-eager" or count == base.threads:
        return None
    return replace(base.with_threads(count), baseline=False)


def _write(
    timed: GroupTiming, trials: Sequence[Trial], base: Trial, planned: Trial, session: RunSession, floors: NoiseFloors
) -> None:
    floor, theirs = floors.of(planned), timed.blocks(base)
    sizes = {trial: session.row(trial)["size_mib"] for trial in trials}
    unsure = {trial for trial in trials if may_exceed(session.row(trial)["quality_drop_high"], session.quality_drop)}
    ranks = standings({trial: timed.blocks(trial) for trial in trials}, sizes, floor.floor, unsure=unsure)
    winner = ranks[0].trial
    for final in ranks:
        trial = final.trial
        columns: dict[str, Any] = {"notes": {}}
        if trial.key != base.key:
            arm, mine = timed.arms[trial.key], timed.blocks(trial)
            columns = timed_columns(arm, mine, theirs, floor, timed=timed.rounds, opened=False)
            columns["baseline_key"] = base.key
        note = final.note(f"{winner.name} on {winner.engine_words}")
        beyond = BEYOND if final.tied and trial in unsure and winner not in unsure else ""
        columns["notes"]["final_rank"] = note + beyond
        session.amend(trial, {**columns, "final_rank": final.rank})


def _faster_baseline(
    timed: GroupTiming, base: Trial, other: Trial | None, session: RunSession, floors: NoiseFloors
) -> Trial:
    """Return the baseline that is faster in the finals; a new one gets a row."""
    if other is None or other.key not in timed.arms:
        return base
    mine, floor = timed.blocks(other), floors.of(base)
    ratio = pace_ratio(timed.blocks(base), mine, floor=floor.floor)
    if verdict(ratio.low, ratio.high, floor=floor.floor) != "faster":
        return base
    new = replace(other, baseline=True)
    unmeasured = replace(floor, ratio=None, low=None, high=None)  # the A/A ratio was that of the other baseline
    columns = baseline_columns(timed.arms[other.key], mine, unmeasured, timed.rounds)
    columns["notes"]["threads"] = (
        f"{ratio.ratio:.2f}x speedup over {base.threads} threads in the finals "
        f"(95 % CI {ratio.low:.2f}-{ratio.high:.2f})."
    )
    session.take_in(new, like=base, columns=columns)
    return new
