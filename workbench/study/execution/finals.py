"""Finals: time the leading rows within the limit head to head, so that their order does not go through a baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.core.stats import verdict
from workbench.study.execution.budget import TimeBudget
from workbench.study.execution.timing_columns import NoiseFloors, baseline_columns, speed_columns
from workbench.study.execution.timing_pool import GroupTiming, TimingPool
from workbench.study.plan.trial_keys import trial_key
from workbench.study.plan.trials import Plan, Trial
from workbench.study.results.quality_limits import may_exceed, within_limit
from workbench.study.results.relative_latency import relative_latencies
from workbench.study.results.schema import TrialRow, is_ranked
from workbench.study.results.winner import NOT_TOLD_APART
from workbench.study.storage.session import RunSession
from workbench.timing.blocks import Block
from workbench.timing.pace import PaceRatio, pace_ratio

FINALISTS = 3
FINALS_S = 12.0
LEAST_S = 8.0
"""Seconds left of a budget below which finals are left out: starting the processes takes some of them."""
_LONGER = 3
"""Times as many rounds as a group has at the most."""
_RESAMPLES = 300


@dataclass(frozen=True)
class FinalRank:
    """A finalist's rank, and the evidence: its time over the winner's with the 95 % CI (None for the winner)."""

    trial: Trial
    rank: int
    behind: PaceRatio | None
    tied: bool

    def note(self, winner: str) -> str:
        """Return the sentence for the row."""
        if self.behind is None:
            return "First in head-to-head timing."
        ci = f"{self.behind.ratio:.2f} times its latency, 95 % CI {self.behind.low:.2f}-{self.behind.high:.2f}"
        if self.tied:
            return f"{NOT_TOLD_APART} {winner} in head-to-head timing ({ci})."
        return f"Slower than {winner} in head-to-head timing ({ci})."


BEYOND = " Its drop may be beyond the limit, by its 95 % CI."


def leading(items: Sequence[tuple[Trial, TrialRow]], limit: float) -> list[Trial]:
    """Return the fastest trial within the quality limit and at most two whose 95 % CI reaches that of the fastest."""
    rows = [row for _, row in items]
    latencies = relative_latencies(rows)
    rivals = [
        (latency, trial)
        for (trial, row), latency in zip(items, latencies, strict=True)
        if row["state"] == "complete" and is_ranked(row) and latency.ms is not None and _allowed(row, limit)
    ]
    rivals.sort(key=lambda rival: rival[0].ms or math.inf)
    if not rivals:
        return []
    first, _ = rivals[0]
    reach = first.high if first.high is not None else first.ms
    near = [trial for latency, trial in rivals if (latency.low or latency.ms or math.inf) <= (reach or 0.0)]
    return near[:FINALISTS]


def _allowed(row: TrialRow, limit: float) -> bool:
    drop = row["quality_drop"]
    return drop is not None and within_limit(drop, limit, quality=row["quality"])


def standings(
    timed: Mapping[Trial, Sequence[Block]],
    sizes: Mapping[Trial, float | None],
    floor: float,
    *,
    unsure: Collection[Trial] = (),
) -> list[FinalRank]:
    """Rank trials that were timed interleaved: by pace, and those not told apart from the fastest by quality and size.

    Parameters
    ----------
    timed : mapping of trial to blocks
        Blocks of the same rounds.
    sizes : mapping of trial to MiB
        Of the files; None counts as largest.
    floor : float
        Share up to which two loads of one model are apart.
    unsure : collection of trials
        Those whose drop may be beyond the limit by its 95 % CI: of a tie the others come first.
    """
    trials = list(timed)
    fastest = max(trials, key=lambda trial: pace_ratio(timed[trials[0]], timed[trial]).ratio)

    def tied(trial: Trial, other: Trial) -> bool:
        found = pace_ratio(timed[trial], timed[other], floor=floor)
        return trial is other or verdict(found.low, found.high, floor=floor) != "faster"

    level = [trial for trial in trials if tied(trial, fastest)]
    winner = min(level, key=lambda trial: (trial in unsure, _size(sizes[trial]), trial is not fastest))
    behind = {trial: pace_ratio(timed[trial], timed[winner], floor=floor) for trial in trials if trial is not winner}
    order = [winner, *sorted(behind, key=lambda trial: (trial not in level, behind[trial].ratio))]
    return [FinalRank(trial, rank, behind.get(trial), trial in level) for rank, trial in enumerate(order, start=1)]


def _size(mib: float | None) -> float:
    return math.inf if mib is None else mib


def run_finals(
    plan: Plan,
    ledger: RunSession,
    bench: TimingPool,
    noise: NoiseFloors,
    budget: TimeBudget,
    *,
    say: Callable[[str], None],
) -> None:
    """Time the leading trials and the baseline at the primary point, and write ranks and speedups into their rows.

    Beside other load the faster thread count of torch eager may have changed since the plan was made, so the other
    one is timed too; if it is told to be faster now, it becomes the baseline of the finalists.
    """
    if not ledger.finished:
        return
    trials = leading([(t, row) for t, row in ledger.every_item() if t.point == plan.primary], ledger.quality_drop)
    base = plan.baseline(plan.primary)
    rivals = [trial for trial in trials if trial.key != base.key]
    if not rivals:
        return
    if len(trials) == 1:
        ledger.amend(trials[0], {"final_rank": 1, "notes": {"final_rank": "No other row is near in latency."}})
        return
    say(f"finals: {', '.join(f'{trial.name} on {trial.engine_words}' for trial in trials)}")
    other = other_threads(base, max(trial.threads for trial in plan.trials))
    arms = [*rivals, *([other] if other is not None else [])]
    floor = noise.of(base).floor

    def told_apart(blocks: Mapping[str, list[Block]]) -> bool:
        paired = [blocks[trial.key] for trial in rivals if trial.key in blocks]
        return all(_decided(one, paired[0], floor) for one in paired[1:])

    timed = bench.time(
        arms,
        base,
        replica=False,
        rounds=(budget.rounds[0], _LONGER * budget.rounds[1]),
        block_s=budget.block_s,
        budget_s=FINALS_S,
        after_round=lambda number: say(f"finals: round {number}"),
        enough=told_apart,
        footprint=False,
    )
    bench.end([trial.key for trial in arms])
    _write(timed, trials, base, other, ledger, noise)


def other_threads(base: Trial, threads: int) -> Trial | None:
    """Return the baseline at the one of 1 and ``threads`` that was not chosen, None if there is one count only."""
    count = threads if base.threads == 1 else 1
    if base.backend != "torch-eager" or count == base.threads:
        return None
    key = trial_key(base.artifact_key, base.backend, base.point, count)
    return replace(base, threads=count, key=key, baseline=False)


def _decided(one: Sequence[Block], other: Sequence[Block], floor: float) -> bool:
    found = pace_ratio(one, other, floor=floor, resamples=_RESAMPLES)
    return verdict(found.low, found.high, floor=floor) != "undecided"


def _write(
    timed: GroupTiming,
    trials: Sequence[Trial],
    base: Trial,
    other: Trial | None,
    ledger: RunSession,
    noise: NoiseFloors,
) -> None:
    blocks = {trial: timed.rounds.timed[timed.arms[trial.key].name] for trial in trials if trial.key in timed.arms}
    if not blocks:
        return
    floor = noise.of(base)
    base = _faster_baseline(timed, base, other, ledger, noise)
    theirs = timed.rounds.timed[timed.arms[base.key].name]
    sizes = {trial: ledger.row(trial)["size_mib"] for trial in blocks}
    unsure = {trial for trial in blocks if may_exceed(ledger.row(trial)["quality_drop_high"], ledger.quality_drop)}
    ranks = standings(blocks, sizes, floor.floor, unsure=unsure)
    winner = ranks[0].trial
    for standing in ranks:
        trial = standing.trial
        columns: dict[str, Any] = {"final_rank": standing.rank, "notes": {}}
        if trial.key != base.key:
            columns |= speed_columns(timed.arms[trial.key], blocks[trial], theirs, floor, timed=timed.rounds)
            columns["baseline_key"] = base.key
        columns["notes"] = {
            **columns["notes"],
            "final_rank": standing.note(f"{winner.name} on {winner.engine_words}")
            + (BEYOND if standing.tied and trial in unsure and winner not in unsure else ""),
        }
        ledger.amend(trial, columns)


def _faster_baseline(
    timed: GroupTiming, base: Trial, other: Trial | None, ledger: RunSession, noise: NoiseFloors
) -> Trial:
    """Return the baseline that is faster beside the finalists; one that is new gets a row."""
    if other is None or other.key not in timed.arms:
        return base
    mine, theirs = (timed.rounds.timed[timed.arms[trial.key].name] for trial in (other, base))
    floor = noise.of(base)
    found = pace_ratio(theirs, mine, floor=floor.floor)
    if verdict(found.low, found.high, floor=floor.floor) != "faster":
        return base
    new = replace(other, baseline=True)
    unmeasured = replace(floor, ratio=None, low=None, high=None)  # the A/A ratio was that of the other baseline
    columns = baseline_columns(timed.arms[other.key], mine, unmeasured, timed.rounds)
    words = f"{found.ratio:.2f}x speedup over {base.threads} threads beside the finalists"
    columns["notes"]["threads"] = f"{words} (95 % CI {found.low:.2f}-{found.high:.2f})."
    ledger.take_in(new, like=base, columns=columns)
    return new
