"""The question of a search: goals that a point must hold, figures to make small or large, and which row answers it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.core.checks import given
from workbench.core.config import Config, from_dict, option
from workbench.core.errors import ConfigError, unknown_name
from workbench.study.results.quality_limits import within_limit
from workbench.study.results.ranking import HIGHER_IS_BETTER, Recommendation, answer, interval_words, one_machine
from workbench.study.results.relative_latency import LATENCY, baseline_of, relative_latency
from workbench.study.results.schema import NUMERIC, TrialRow, is_ranked, row_engine
from workbench.study.results.winner import winner_of

_COLUMNS = {
    "max_quality_drop": "quality_drop",
    "max_latency_ms": LATENCY,
    "max_peak_rss_mib": "peak_rss_mib",
    "max_size_mib": "size_mib",
}
_WORDS = {
    "max_quality_drop": ("drop", ""),
    "max_latency_ms": ("latency", " ms"),
    "max_peak_rss_mib": ("peak memory", " MiB"),
    "max_size_mib": ("size", " MiB"),
}
_LATENCIES = (LATENCY, "latency_ms_p50")
_FIGURES = {LATENCY: "fastest", "throughput_per_s": "highest throughput"}


@dataclass(frozen=True)
class Goals(Config):
    """What a point must hold to be recommended; None asks for nothing.

    Examples
    --------
    >>> Goals(max_quality_drop=0.02, max_size_mib=1.5).words()
    'drop at most 0.02, size at most 1.5 MiB'
    """

    max_quality_drop: float = option(0.01, "largest drop of quality, in the metric's units", minimum=0.0)
    max_latency_ms: float | None = option(None, "longest baseline-normalised latency of a call", above=0.0, unit="ms")
    max_peak_rss_mib: float | None = option(None, "largest peak memory of the engine's process", above=0.0, unit="MiB")
    max_size_mib: float | None = option(None, "largest file that the engine loads", above=0.0, unit="MiB")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that were given, by the name of their goal."""
        return {name: getattr(self, name) for name in _COLUMNS if getattr(self, name) is not None}

    def words(self) -> str:
        """Return the goals in words."""
        return ", ".join(
            f"{goal_words(name)[0]} at most {limit:g}{goal_words(name)[1]}" for name, limit in self.limits.items()
        )

    def excess(
        self, row: Mapping[str, Any], *, base: Mapping[str, Any] | None = None, drop: str = "quality_drop"
    ) -> dict[str, float]:
        """Return for each goal how far a row is beyond it, as a share of the limit; 0 or below where it holds.

        What was not measured counts as one whole limit too much. ``base`` is the baseline's row, for the
        baseline-normalised latency; without it, latency is what was measured. ``drop`` names the column of the drop: a
        search may look at ``"validation_drop"`` only.
        """
        found = {}
        for name, limit in self.limits.items():
            value = _figure(row, base, drop if name == "max_quality_drop" else _COLUMNS[name])
            found[name] = 1.0 if value is None else (float(value) - limit) / (limit or 1.0)
            if (
                name == "max_quality_drop"
                and value is not None
                and within_limit(value, limit, quality=row.get("quality"))
            ):
                found[name] = min(found[name], 0.0)
        return found

    def hold(
        self, row: Mapping[str, Any], *, base: Mapping[str, Any] | None = None, drop: str = "quality_drop"
    ) -> bool:
        """Say whether a row holds all goals; as :meth:`excess`."""
        return all(far <= 0 for far in self.excess(row, base=base, drop=drop).values())


@dataclass(frozen=True)
class Objective:
    """What a search is asked: the goals, the figures to make small (or, of those where more is better, large)."""

    goals: Goals
    figures: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    shape: str = ""

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """For each figure, what Optuna calls its direction."""
        return ["maximize" if figure in HIGHER_IS_BETTER else "minimize" for figure in self.figures]

    def values(self, row: TrialRow, base: TrialRow | None) -> list[float] | str:
        """Return the figures of a row as a search sees them, or why one is unknown.

        Latency is baseline-normalised, throughput follows from it, and quality is that of the validation split.
        """
        found = [_figure(row, base, _SEEN.get(figure, figure)) for figure in self.figures]
        for figure, value in zip(self.figures, found, strict=True):
            if value is None or not math.isfinite(value):
                return f"{figure} is unknown: {row['notes'].get(figure, 'it was not measured')}"
        return [float(value) for value in found if value is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**dataclasses.asdict(self), "goals": self.goals.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Objective:
        """Return what :meth:`to_dict` described."""
        figures, sizes = tuple(values["figures"]), tuple(map(int, values["batch_sizes"]))
        if not figures or not all(figure in NUMERIC for figure in figures):
            raise ConfigError(f"The figures of a search must be numeric columns, got {given(figures)}.")
        return cls(from_dict(Goals, values["goals"]), figures, sizes, str(values["shape"]))


_SEEN = {"quality_drop": "validation_drop"}
_UNSEEN = ("agreement", "quality_drop_low", "quality_drop_high")


def question(
    goals: Goals | None,
    minimize: str | Sequence[str] | None,
    maximize: str | Sequence[str] | None,
    batch_sizes: tuple[int, ...],
    *,
    shape: str,
) -> Objective:
    """Return the question of a search; without a figure, latency at one batch size and throughput over several.

    Raises
    ------
    ConfigError
        If ``goals`` is something else, or a figure is unknown, on the wrong side, or no figure at all over several
        batch sizes, as latency is.
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
            raise ConfigError("search: write minimize='quality_drop', the loss against the float model.")
        if name in _UNSEEN:
            raise ConfigError(
                f"search: {name} is of the evaluation split, which a search does not see. Write "
                "minimize='quality_drop': it looks at the validation split then."
            )
    for wrong, side, other in (
        ([n for n in small if n in HIGHER_IS_BETTER], "minimize", "maximize"),
        ([n for n in large if n not in HIGHER_IS_BETTER], "maximize", "minimize"),
    ):
        if wrong:
            raise ConfigError(f"search: {wrong[0]} does not belong into {side}. Write {other}={wrong[0]!r}.")
    if len(batch_sizes) > 1 and any(name in small for name in _LATENCIES):
        raise ConfigError(
            f"search: a call of {min(batch_sizes)} and one of {max(batch_sizes)} samples are no rivals in latency, the "
            "smaller one always wins. Give one batch size; or maximize='throughput_per_s' with a goal for the latency."
        )
    figures = tuple(dict.fromkeys((*small, *large)))
    return Objective(goals or Goals(), figures, batch_sizes, shape)


def recommend(rows: Sequence[TrialRow], asked: Objective, *, machine: str | None = None) -> Recommendation:
    """Return exactly one row that answers the question, or the nearest miss and the plain statement.

    As :func:`~workbench.study.results.ranking.best_row`: only complete rows of one machine, compared by the
    baseline-normalised latency, finalists by their head-to-head timing, ties by size. Quality is that of the evaluation
    split, which the search did not see.
    """
    known, other = _rivals(rows, asked, machine)
    order = {row["trial_key"]: cost for row, cost in zip(known, costs(known, asked.figures[0]), strict=True)}
    rivals = [r for r in known if math.isfinite(order[r["trial_key"]])]
    rivals.sort(key=lambda r: (order[r["trial_key"]], r["quality_drop"]))
    if not rivals:
        return Recommendation(None, False, f"No finished trial has both a quality and {asked.figures[0]}.", 0)
    base = baseline_of(rivals)
    held = [r for r in rivals if asked.goals.hold(r, base=base(r))]
    if held:
        winner = winner_of(held, asked.figures[0])
        kind = _FIGURES.get(asked.figures[0]) or f"best {asked.figures[0]}"
        at = f" at batch {winner.row['batch_size']}" if len(asked.batch_sizes) > 1 else ""
        counts = f"of {len(held)} variants that hold the goals ({asked.goals.words()}; {len(rivals)} compared){at}"
        best = answer(winner, kind, counts, asked.goals.max_quality_drop, len(rivals))
        return dataclasses.replace(best, reason=best.reason + other)

    def far(row: TrialRow) -> tuple[float, float]:
        beyond = asked.goals.excess(row, base=base(row))
        return sum(max(0.0, share) for share in beyond.values()), order[row["trial_key"]]

    row = min(rivals, key=far)
    return Recommendation(row, False, _nothing_held(rivals, row, asked.goals) + other, len(rivals))


def misses(rows: Sequence[TrialRow], asked: Objective, *, machine: str | None = None) -> dict[str, TrialRow]:
    """Return :func:`nearest_misses` of the rows that :func:`recommend` compares."""
    return nearest_misses(_rivals(rows, asked, machine)[0], asked.goals)


def _rivals(rows: Sequence[TrialRow], asked: Objective, machine: str | None) -> tuple[list[TrialRow], str]:
    """Return the rows that may answer a question, all of one machine, with a sentence where that is not this one."""
    known = [r for r in rows if r["state"] == "complete" and r["batch_size"] in asked.batch_sizes]
    known = [r for r in known if r["shape"] == asked.shape and r["quality_drop"] is not None and is_ranked(r)]
    return one_machine(known, machine)


def nearest_misses(rows: Sequence[TrialRow], goals: Goals) -> dict[str, TrialRow]:
    """Return for each goal the row that comes nearest to it among those that hold all others, where there are any."""
    found, base = {}, baseline_of(rows)
    beyond = {row["trial_key"]: goals.excess(row, base=base(row)) for row in rows}
    for name in goals.limits:
        others = [r for r in rows if all(b <= 0 for goal, b in beyond[r["trial_key"]].items() if goal != name)]
        if others:
            found[name] = min(others, key=lambda r: beyond[r["trial_key"]][name])
    return found


def costs(rows: Sequence[TrialRow], figure: str) -> list[float]:
    """Return a figure of rows as a cost, lower is better; infinite if it is unknown."""
    base = baseline_of(rows)
    found = [_figure(row, base(row), figure) for row in rows]
    sign = -1.0 if figure in HIGHER_IS_BETTER else 1.0
    return [math.inf if value is None else sign * value for value in found]


def goal_words(name: str) -> tuple[str, str]:
    """Return what a goal limits in words, and its unit."""
    return _WORDS[name]


def goal_column(name: str) -> str:
    """Return the column that a goal limits."""
    return _COLUMNS[name]


def _figure(row: Mapping[str, Any], base: Mapping[str, Any] | None, column: str) -> float | None:
    if column not in (LATENCY, "throughput_per_s"):
        value: float | None = row.get(column)
        return value
    latency = row.get(LATENCY) or relative_latency(row, base).ms
    if not latency:
        return None
    return latency if column == LATENCY else 1e3 * row["batch_size"] / latency


def _several(side: str, names: str | Sequence[str] | None) -> tuple[str, ...]:
    found = () if names is None else (names,) if isinstance(names, str) else tuple(names)
    if not found and names is not None:
        raise ConfigError(f"search: {side} is empty. Name a column, such as latency_ms_rel, or leave it out.")
    if not all(isinstance(name, str) for name in found):
        raise ConfigError(f"search: {side} must be the name of a column, or several, got {given(names)}.")
    return found


def _nothing_held(rivals: Sequence[TrialRow], row: TrialRow, goals: Goals) -> str:
    base = baseline_of(rivals)
    text = (
        f"Nothing met the goals ({goals.words()}): none of the {len(rivals)} finished variants does. The nearest is "
        f"{row['recipe']} on {row_engine(row)}: {_misses(row, base, goals)}."
    )
    for name, near in nearest_misses(rivals, goals).items():
        if near is not row:
            text += (
                f" But for the {goal_words(name)[0]}, {near['recipe']} on {row_engine(near)} holds everything: "
                f"{_misses(near, base, goals)}."
            )
    return text


def _misses(row: TrialRow, base: Callable[[TrialRow], TrialRow | None], goals: Goals) -> str:
    words = []
    for name, beyond in goals.excess(row, base=base(row)).items():
        if beyond > 0:
            what, unit = goal_words(name)
            value = _figure(row, base(row), _COLUMNS[name])
            shown = "unknown" if value is None else f"{value:.4g}{unit}"
            interval = interval_words(row) if name == "max_quality_drop" else ""
            words.append(f"{what} {shown}{interval} instead of {goals.limits[name]:g}{unit}")
    return ", ".join(words)
