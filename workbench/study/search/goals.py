"""Goals and objective of a search, and the recommendation of one row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.core.checks import given
from workbench.core.config import Config, from_dict, option
from workbench.core.errors import ConfigError, unknown_name
from workbench.study.config import QUALITY_DROP
from workbench.study.results.quality_limits import within_limit
from workbench.study.results.ranking import HIGHER_IS_BETTER, Recommendation, answer, interval_words, one_machine
from workbench.study.results.relative_latency import LATENCY, baseline_of, relative_latency
from workbench.study.results.schema import NUMERIC, TrialRow, is_ranked, row_engine
from workbench.study.results.winner import winner_of

_LIMITED = {
    "max_quality_drop": ("quality_drop", "drop", ""),
    "max_latency_ms": (LATENCY, "latency", " ms"),
    "max_peak_rss_mib": ("peak_rss_mib", "peak memory", " MiB"),
    "max_size_mib": ("size_mib", "size", " MiB"),
}
"""Goals: the column, its name and its unit for text."""
_LATENCIES = (LATENCY, "latency_ms_p50")
_FIGURES = {LATENCY: "fastest", "throughput_per_s": "highest throughput"}


@dataclass(frozen=True)
class Goals(Config):
    """Limits that a point must meet to be recommended; None: no limit.

    Examples
    --------
    >>> Goals(max_quality_drop=0.02, max_size_mib=1.5).words()
    'drop at most 0.02, size at most 1.5 MiB'
    """

    max_quality_drop: float = option(QUALITY_DROP, "maximum drop of quality, in the metric's units", minimum=0.0)
    max_latency_ms: float | None = option(None, "maximum baseline-normalized latency of a call", above=0.0, unit="ms")
    max_peak_rss_mib: float | None = option(None, "maximum peak memory of the engine's process", above=0.0, unit="MiB")
    max_size_mib: float | None = option(None, "maximum size of the model file", above=0.0, unit="MiB")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by goal."""
        return {name: getattr(self, name) for name in _LIMITED if getattr(self, name) is not None}

    def words(self) -> str:
        """Return the goals as text."""
        return ", ".join(
            f"{_LIMITED[name][1]} at most {limit:g}{_LIMITED[name][2]}" for name, limit in self.limits.items()
        )

    def excess(
        self, row: Mapping[str, Any], *, base: Mapping[str, Any] | None = None, drop: str = "quality_drop"
    ) -> dict[str, float]:
        """Return the violation of each goal as a share of the limit; 0 or below if the goal is met.

        A figure that was not measured counts as 1. ``base`` is the baseline's row, for the baseline-normalized latency;
        without it, latency is as measured. ``drop`` is the column of the drop: a search may use ``"validation_drop"``
        only.
        """
        excess = {}
        for name, limit in self.limits.items():
            is_drop = name == "max_quality_drop"
            value = _figure(row, base, drop if is_drop else _LIMITED[name][0])
            excess[name] = 1.0 if value is None else (float(value) - limit) / (limit or 1.0)
            if is_drop and value is not None and within_limit(value, limit, quality=row.get("quality")):
                excess[name] = min(excess[name], 0.0)
        return excess

    def hold(
        self, row: Mapping[str, Any], *, base: Mapping[str, Any] | None = None, drop: str = "quality_drop"
    ) -> bool:
        """Return True if a row meets all goals; arguments as :meth:`excess`."""
        return all(excess <= 0 for excess in self.excess(row, base=base, drop=drop).values())


@dataclass(frozen=True)
class Objective:
    """Objective of a search: the goals, and the figures to minimize (or maximize if higher is better)."""

    goals: Goals
    figures: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    shape: str = ""

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Optuna's direction of each figure."""
        return ["maximize" if figure in HIGHER_IS_BETTER else "minimize" for figure in self.figures]

    def values(self, row: TrialRow, base: TrialRow | None) -> list[float] | str:
        """Return the figures of a row for a search, or the reason why one is unknown.

        Latency and throughput are baseline-normalized, quality is that of the validation split.
        """
        values = [_figure(row, base, _VALIDATION.get(figure, figure)) for figure in self.figures]
        for figure, value in zip(self.figures, values, strict=True):
            if value is None or not math.isfinite(value):
                return f"{figure} is unknown: {row['notes'].get(figure, 'it was not measured')}"
        return [float(value) for value in values if value is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**dataclasses.asdict(self), "goals": self.goals.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Objective:
        """Build from the values of :meth:`to_dict`."""
        figures, sizes = tuple(values["figures"]), tuple(map(int, values["batch_sizes"]))
        if not figures or not all(figure in NUMERIC for figure in figures):
            raise ConfigError(f"The figures of a search must be numeric columns, got {given(figures)}.")
        return cls(from_dict(Goals, values["goals"]), figures, sizes, str(values["shape"]))


_VALIDATION = {"quality_drop": "validation_drop"}
_EVALUATION = ("agreement", "quality_drop_low", "quality_drop_high")


def objective_for(
    goals: Goals | None,
    minimize: str | Sequence[str] | None,
    maximize: str | Sequence[str] | None,
    batch_sizes: tuple[int, ...],
    *,
    shape: str,
) -> Objective:
    """Return the objective of a search; the default figure is latency, or throughput for several batch sizes.

    ConfigError if a figure is unknown or has the other direction, or latency is minimized over several batch sizes.
    """
    if goals is not None and not isinstance(goals, Goals):
        raise ConfigError(f"search: goals must be wb.Goals(max_quality_drop=0.01, ...), got {given(goals)}.")
    small, large = _several("minimize", minimize), _several("maximize", maximize)
    if not small and not large:
        small, large = ((LATENCY,), ()) if len(batch_sizes) == 1 else ((), ("throughput_per_s",))
    for name in (*small, *large):
        if name not in NUMERIC:
            raise ConfigError("search: " + unknown_name("numeric column", name, NUMERIC))
        if name == "quality":
            raise ConfigError("search: quality cannot be a figure. Write minimize='quality_drop'.")
        if name in _EVALUATION:
            raise ConfigError(
                f"search: {name} is of the evaluation split, which a search must not use. Write "
                "minimize='quality_drop', which is measured on the validation split."
            )
    for names, side, other in ((small, "minimize", "maximize"), (large, "maximize", "minimize")):
        for name in names:
            if (name in HIGHER_IS_BETTER) != (side == "maximize"):
                raise ConfigError(f"search: {name} cannot be {side}d. Write {other}={name!r}.")
    if len(batch_sizes) > 1 and any(name in small for name in _LATENCIES):
        raise ConfigError(
            f"search: latencies of batch sizes {min(batch_sizes)} to {max(batch_sizes)} cannot be compared. Give one "
            "batch size; or maximize='throughput_per_s' with a goal for the latency."
        )
    figures = tuple(dict.fromkeys((*small, *large)))
    return Objective(goals or Goals(), figures, batch_sizes, shape)


def recommend(rows: Sequence[TrialRow], objective: Objective, *, machine: str | None = None) -> Recommendation:
    """Return one row that meets the goals, or the closest miss with the reason.

    As :func:`~workbench.study.results.ranking.best_row`: only complete rows of one machine, compared by the
    baseline-normalized latency, finalists by their head-to-head timing, ties by size. Quality is that of the evaluation
    split, which the search did not use.
    """
    complete, other = _rivals(rows, objective, machine)
    order = {row["trial_key"]: cost for row, cost in zip(complete, costs(complete, objective.figures[0]), strict=True)}
    rivals = [r for r in complete if math.isfinite(order[r["trial_key"]])]
    rivals.sort(key=lambda r: (order[r["trial_key"]], r["quality_drop"]))
    if not rivals:
        return Recommendation(None, False, f"No finished trial has both a quality and {objective.figures[0]}.", 0)
    base = baseline_of(rivals)
    held = [r for r in rivals if objective.goals.hold(r, base=base(r))]
    if held:
        winner = winner_of(held, objective.figures[0])
        kind = _FIGURES.get(objective.figures[0]) or f"best {objective.figures[0]}"
        at = f" at batch {winner.row['batch_size']}" if len(objective.batch_sizes) > 1 else ""
        counts = f"of {len(held)} variants that meet the goals ({objective.goals.words()}; {len(rivals)} compared){at}"
        best = answer(winner, kind, counts, objective.goals.max_quality_drop, len(rivals))
        return dataclasses.replace(best, reason=best.reason + other)

    def far(row: TrialRow) -> tuple[float, float]:
        beyond = objective.goals.excess(row, base=base(row))
        return sum(max(0.0, share) for share in beyond.values()), order[row["trial_key"]]

    row = min(rivals, key=far)
    return Recommendation(row, False, _nothing_held(rivals, row, objective.goals) + other, len(rivals))


def misses(rows: Sequence[TrialRow], objective: Objective, *, machine: str | None = None) -> dict[str, TrialRow]:
    """Return :func:`nearest_misses` of the rows that :func:`recommend` compares."""
    return nearest_misses(_rivals(rows, objective, machine)[0], objective.goals)


def _rivals(rows: Sequence[TrialRow], objective: Objective, machine: str | None) -> tuple[list[TrialRow], str]:
    """Return the candidate rows, all of one machine, with a note if that is another machine."""
    complete = [r for r in rows if r["state"] == "complete" and r["batch_size"] in objective.batch_sizes]
    complete = [r for r in complete if r["shape"] == objective.shape and r["quality_drop"] is not None and is_ranked(r)]
    return one_machine(complete, machine)


def nearest_misses(rows: Sequence[TrialRow], goals: Goals) -> dict[str, TrialRow]:
    """Return for each goal the closest row among those that meet all other goals."""
    nearest, base = {}, baseline_of(rows)
    beyond = {row["trial_key"]: goals.excess(row, base=base(row)) for row in rows}
    for name in goals.limits:
        others = [r for r in rows if all(b <= 0 for goal, b in beyond[r["trial_key"]].items() if goal != name)]
        if others:
            nearest[name] = min(others, key=lambda r: beyond[r["trial_key"]][name])
    return nearest


def costs(rows: Sequence[TrialRow], figure: str) -> list[float]:
    """Return a figure of rows as a cost, lower is better; infinite if it is unknown."""
    base = baseline_of(rows)
    values = [_figure(row, base(row), figure) for row in rows]
    sign = -1.0 if figure in HIGHER_IS_BETTER else 1.0
    return [math.inf if value is None else sign * value for value in values]


def _figure(row: Mapping[str, Any], base: Mapping[str, Any] | None, column: str) -> float | None:
    if column not in (LATENCY, "throughput_per_s"):
        value: float | None = row.get(column)
        return value
    latency = row.get(LATENCY) or relative_latency(row, base).ms
    if not latency:
        return None
    return latency if column == LATENCY else 1e3 * row["batch_size"] / latency


def _several(side: str, names: str | Sequence[str] | None) -> tuple[str, ...]:
    columns = () if names is None else (names,) if isinstance(names, str) else tuple(names)
    if not columns and names is not None:
        raise ConfigError(f"search: {side} is empty. Name a column, such as latency_ms_rel, or leave it out.")
    if not all(isinstance(name, str) for name in columns):
        raise ConfigError(f"search: {side} must be the name of a column, or several, got {given(names)}.")
    return columns


def _nothing_held(rivals: Sequence[TrialRow], row: TrialRow, goals: Goals) -> str:
    base = baseline_of(rivals)
    text = (
        f"Nothing met the goals ({goals.words()}): none of the {len(rivals)} finished variants does. The nearest is "
        f"{row['recipe']} on {row_engine(row)}: {_misses(row, base, goals)}."
    )
    for name, near in nearest_misses(rivals, goals).items():
        if near is not row:
            text += (
                f" Except for the {_LIMITED[name][1]}, {near['recipe']} on {row_engine(near)} meets every goal: "
                f"{_misses(near, base, goals)}."
            )
    return text


def _misses(row: TrialRow, base: Callable[[TrialRow], TrialRow | None], goals: Goals) -> str:
    words = []
    for name, beyond in goals.excess(row, base=base(row)).items():
        if beyond > 0:
            column, noun, unit = _LIMITED[name]
            value = _figure(row, base(row), column)
            shown = "unknown" if value is None else f"{value:.4g}{unit}"
            interval = interval_words(row) if name == "max_quality_drop" else ""
            words.append(f"{noun} {shown}{interval} instead of {goals.limits[name]:g}{unit}")
    return ", ".join(words)
