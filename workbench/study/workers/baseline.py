"""The baseline's threads: torch eager at the faster of 1 and n threads on this machine, now.

Threaded torch eager is bimodal under load, because its workers spin at every barrier: with one of two cores taken, a
call of 13 ms took 31 ms, and 22 ms with one thread. The baseline must be the fastest that is there without effort.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.core.machine import fingerprint_id
from workbench.study.plan.shapes import OperatingPoint, shape_words
from workbench.study.plan.trials import Plan
from workbench.study.results.schema import TrialRow

if TYPE_CHECKING:
    from workbench.tasks.task import Task

CHOICE_S = 1.5
"""Seconds of timing per point."""
_ROUNDS = (3, 30)
_BLOCK_S = 0.04


@dataclass(frozen=True)
class ThreadChoice:
    """The faster thread count of torch eager at a point.

    ``ratio`` is the time with ``other`` threads over that with ``threads``, with its 95 % CI.
    """

    threads: int
    other: int
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        names = [f"{count} thread{'' if count == 1 else 's'}" for count in (self.threads, self.other)]
        return (
            f"torch eager with {names[0]}: {names[1]} took {self.ratio:.2f} times as long here "
            f"(95 % CI {self.low:.2f}-{self.high:.2f})"
        )


def fastest_threads(call: Callable[[int], object], threads: int, *, budget_s: float = CHOICE_S) -> ThreadChoice:
    """Time ``call(1)`` and ``call(threads)`` interleaved; the argument is the number of threads."""
    from workbench.timing.interleave import CallArm, block_seconds, interleave
    from workbench.timing.pace import pace_ratio

    arms = [CallArm(str(count), functools.partial(call, count)) for count in (threads, 1)]
    for arm in arms:
        arm.warm()
    block_s = max(_BLOCK_S, block_seconds(arms))
    timed = interleave(arms, rounds=_ROUNDS, block_s=block_s, budget_s=budget_s).timed
    ratio = pace_ratio(timed["1"], timed[str(threads)])  # time with 1 thread over that with several
    if ratio.ratio >= 1:
        return ThreadChoice(threads, 1, ratio.ratio, ratio.low, ratio.high)
    ratio = ratio.inverse()
    return ThreadChoice(1, threads, ratio.ratio, ratio.low, ratio.high)


def choose_threads(task: Task, points: Sequence[OperatingPoint], threads: int) -> dict[OperatingPoint, ThreadChoice]:
    """Return the faster thread count of the task's model in torch eager at each point."""
    import torch

    from workbench.tasks.axes import resize
    from workbench.tasks.trees import call_model

    model, before = task.model(), torch.get_num_threads()
    model.eval()
    choices = {}
    try:
        for point in points:
            inputs = resize(task.examples(point.batch), task.open_dims, dict(point.shape))

            def call(count: int, inputs: Any = inputs) -> object:
                if torch.get_num_threads() != count:
                    torch.set_num_threads(count)
                with torch.inference_mode():
                    return call_model(model, inputs)

            choices[point] = fastest_threads(call, threads)
    finally:
        torch.set_num_threads(before)
    return choices


def with_earlier_baseline(plan: Plan, rows: Iterable[TrialRow]) -> tuple[Plan, tuple[OperatingPoint, ...]]:
    """Return the plan with the baseline threads of this machine's complete rows, and the points without such a row.

    A study keeps one baseline at each point, so that its rows can be compared.
    """
    base, machine = plan.baseline(plan.primary), fingerprint_id()
    if base.backend != "torch-eager" or base.threads < 2:
        return plan, ()
    measured = {
        (row["batch_size"], row["shape"]): row["threads"]
        for row in rows
        if row["baseline"] and row["state"] == "complete" and row["fingerprint"] == machine
        if row["threads"] in (1, base.threads)
    }
    counts = {point: measured.get((point.batch, shape_words(point.shape))) for point in plan.points}
    threads = {point: count for point, count in counts.items() if count is not None}
    return plan.rebased(threads, {}), tuple(point for point in plan.points if point not in threads)


def with_fastest_baseline(
    plan: Plan,
    points: Sequence[OperatingPoint],
    measure: Callable[[Sequence[OperatingPoint], int], Mapping[OperatingPoint, ThreadChoice]],
) -> Plan:
    """Return the plan with the baseline at ``points`` at its faster thread count, by ``measure(points, threads)``."""
    if not points:
        return plan
    choices = measure(points, max(trial.threads for trial in plan.trials if trial.baseline))
    threads = {point: choice.threads for point, choice in choices.items()}
    return plan.rebased(threads, {point: str(choice) for point, choice in choices.items()})
