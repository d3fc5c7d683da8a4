"""Waterfall of one recipe: latency, MACs, size and quality after each step, as floating bars."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from workbench.core.format.speedup import row_speedup
from workbench.plots.charts.study.tidy import latency_rows, rows_of, why_empty
from workbench.plots.drawing.figure import (
    TEXT,
    annotate,
    describe,
    empty_chart,
    escaped,
    figure_of,
    legend,
    new_figure,
    style_axes,
)
from workbench.plots.drawing.marks import plain_rows
from workbench.present import style
from workbench.study.config import PRIMARY_BATCH
from workbench.study.results.relative_latency import baseline_of, with_relative_latency

COLUMNS = [
    *("stage", "label", "kind", "latency_ms_rel", "size_mib", "params", "macs", "quality_validation"),
    *("latency_ms_change", "size_mib_change", "params_change", "macs_change", "quality_change", "timed_at"),
]
_TRAINING = ("Distill", "Recover")


def waterfall_data(rows: Any, *, batch_size: int = PRIMARY_BATCH, row: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return a row per stage from the baseline to the recommended variant (or to the variant of ``row``).

    Stages are the baseline, the same model on the variant's backend, and each step. ``latency_ms_rel`` (the
    baseline-normalized latency in ms per batch) and ``size_mib`` come from trials of the recipe's prefixes, NaN if a
    prefix is not a recipe of the study. A stage that only trains (distill, recover) shares latency and size with the
    stage before it: ``timed_at`` names their source. ``macs`` (per sample), ``params`` and ``quality_validation`` come
    from the step reports. A ``_change`` is relative to the last stage with a figure. Empty without such a variant.
    """
    table = [r for r in latency_rows(rows) if r.get("reference") is None]
    target = row if row is not None else next((r for r in table if r.get("recommended") is True), None)
    if target is None:
        return pd.DataFrame(columns=COLUMNS)
    target = with_relative_latency([*table, target])[-1]
    same = _at_point(table, target)
    steps = list(target.get("steps") or [])
    first = baseline_of(same)(target) or next((r for r in same if r["baseline"]), {})
    stages = [_stage("original model", "baseline", first, steps[0] if steps else None, after=False)]
    if target["backend"] != first.get("backend"):
        moved = next((r for r in same if not r.get("steps") and r["backend"] == target["backend"]), {})
        label = f"on {style.backend(target['backend']).word}"
        stages.append(_stage(label, "backend", moved, steps[0] if steps else None, after=False))
    for number, step in enumerate(steps, start=1):
        source = target if number == len(steps) else _prefix(same, target, number)
        stages.append(_stage(str(step["label"]), "step", source, step, after=True))
    _share_structure(stages, steps)
    frame = pd.DataFrame(stages)
    frame.insert(0, "stage", range(len(frame)))
    for column in ("latency_ms_rel", "size_mib", "params", "macs", "quality_validation"):
        frame[column] = pd.to_numeric(frame[column]).astype(float)
        change = column.replace("_rel", "").replace("_validation", "") + "_change"
        frame[change] = frame[column] - frame[column].ffill().shift()
    return frame[COLUMNS]


def _at_point(rows: Sequence[Mapping[str, Any]], target: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows at the target's operating point and machine, those with its thread count first."""
    names = ("batch_size", "shape", "fingerprint")
    same = [r for r in rows if all((r.get(name) or "") == (target.get(name) or "") for name in names)]
    return sorted(same, key=lambda r: r.get("threads") != target.get("threads"))


def plot_waterfall(
    rows: Any, *, batch_size: int = PRIMARY_BATCH, row: Mapping[str, Any] | None = None, ax: Axes | None = None
) -> Figure:
    """Draw gain and cost of each step from the baseline to the recommended variant, or to that of ``row``.

    ``rows`` as for :func:`plot_tradeoff`; ``batch_size`` is ignored because the row has an operating point. ``ax`` gets
    the latency alone.
    """
    frame = waterfall_data(rows, batch_size=batch_size, row=row)
    if frame.empty:
        complete = any(r.get("state") == "complete" for r in rows_of(rows))
        none = "No variant is recommended, because none met the quality limit."
        return empty_chart(ax, none if complete else why_empty(rows, "a waterfall"))
    chosen = row if row is not None else next(r for r in rows_of(rows) if r.get("recommended") is True)
    measures = [m for m in _measures(chosen) if frame[m.column].notna().any()]
    if ax is None:
        height = 1.75 + 0.52 * (len(frame) + 1)
        axes = new_figure(2.3 + 2.3 * len(measures), height, columns=len(measures), share_y=True)[1]
    else:
        axes = [style_axes(ax)]
    for number, (target, measure) in enumerate(zip(axes, measures, strict=False)):
        _draw_measure(target, frame, measure, first=number == 0)
    _gain_key(axes[min(len(axes), len(measures)) - 1])
    _name_stages(axes[0], [*frame["label"], f"result: {chosen['recipe']}"])
    return figure_of(axes[0])


def _measures(row: Mapping[str, Any]) -> Sequence[_Measure]:
    unit = f"(ms/batch of {row['batch_size']}) ↓"
    return (
        _Measure("latency_ms_rel", "Latency", unit, "timed", structural=True, result=row_speedup(row).brief),
        _Measure("macs", "MACs", "(million/sample) ↓", "counted", scale=1e-6),
        _Measure("size_mib", "Size", "(MiB on disk) ↓", "measured", structural=True),
        _Measure("quality_validation", "Quality", "(validation split) ↑", "measured", higher_is_better=True),
    )


def _stage(
    label: str, kind: str, row: Mapping[str, Any], step: Mapping[str, Any] | None, *, after: bool
) -> dict[str, Any]:
    moment = "after" if after else "before"
    report = {name: (step or {}).get(f"{name}_{moment}") for name in ("params", "macs", "quality")}
    counts = {name: row.get(name) if report[name] is None else report[name] for name in ("params", "macs")}
    figures = {name: row.get(name) for name in ("latency_ms_rel", "size_mib")}
    return {
        "label": label,
        "kind": kind,
        "timed_at": label,
        **figures,
        **counts,
        "quality_validation": report["quality"],
    }


def _share_structure(stages: list[dict[str, Any]], steps: Sequence[Mapping[str, Any]]) -> None:
    """Give a stage that was not timed the figures of the next one if that one only trains the same structure."""
    first = len(stages) - len(steps)
    for place in range(len(stages) - 2, first - 1, -1):
        here, after = stages[place], stages[place + 1]
        trained = steps[place + 1 - first]["step"].get("step") in _TRAINING
        if trained and pd.isna(here["latency_ms_rel"]) and not pd.isna(after["latency_ms_rel"]):
            here.update({name: after[name] for name in ("latency_ms_rel", "size_mib", "timed_at")})


def _prefix(rows: Sequence[Mapping[str, Any]], target: Mapping[str, Any], count: int) -> Mapping[str, Any]:
    """Return the row of the recipe that is the first ``count`` steps of the target's, on the same backend."""
    prefix = [step["step"] for step in target["steps"][:count]]
    for row in rows:
        steps = [step["step"] for step in row.get("steps") or []]
        if steps == prefix and row["backend"] == target["backend"] and _seed(row) == _seed(target):
            return row
    return {}


def _seed(row: Mapping[str, Any]) -> Any:
    return json.loads(row.get("recipe_json") or "{}").get("seed")


_HEIGHT = 0.56
_GAIN: dict[str, Any] = {"facecolor": style.GOOD, "edgecolor": style.INK, "linewidth": 0.6}
_COST: dict[str, Any] = {"facecolor": style.PALE_BAD, "edgecolor": style.BAD, "linewidth": 0.6, "hatch": "////"}


@dataclass(frozen=True)
class _Measure:
    """One panel: column, title, unit, and the participle of its measurement.

    A ``structural`` figure is measured once for two stages of the same structure. ``result`` is the text of a ratio
    that was measured directly, instead of the ratio of two separate figures.
    """

    column: str
    name: str
    unit: str
    verb: str
    scale: float = 1.0
    higher_is_better: bool = False
    structural: bool = False
    result: str = ""


def _draw_measure(ax: Axes, frame: pd.DataFrame, measure: _Measure, *, first: bool) -> None:
    """Draw a measure from the first stage to the last, with the result as a full bar below.

    A gain is green, a cost is hatched orange; the change follows each bar. An unknown stage has a text instead, and
    the next known stage shows the change of both.
    """
    values = frame[measure.column].to_numpy(dtype=float) * measure.scale
    finite = np.flatnonzero(~np.isnan(values))
    begin, last = int(finite[0]), int(finite[-1])
    start, end = float(values[begin]), float(values[last])
    zero = _scale(ax, measure, float(np.nanmin(values)), float(np.nanmax(values)))
    _full_bar(ax, begin, start, zero, style.FAINT)
    annotate(ax, _number(start), (max(start, zero), begin))
    previous, before = start, begin
    for place in range(len(frame)):
        if np.isnan(values[place]):
            annotate(ax, f"not {measure.verb} alone", (previous, place), color=style.MUTED)
        elif place > begin:
            together = "" if place - before == 1 else f" ({place - before} steps)"
            _step_bar(ax, place, previous, float(values[place]), measure, together, _unchanged(frame, place, measure))
            ax.plot([previous] * 2, [before, place], color=style.MUTED, linewidth=0.7, zorder=2)
            previous, before = float(values[place]), place
    if last == len(frame) - 1:
        _full_bar(ax, len(frame), end, zero, style.INK)
        ax.plot([end] * 2, [len(frame) - 1, len(frame)], color=style.MUTED, linewidth=0.7, zorder=2)
        text = f"{_number(end)}{_ratio(start, end, measure)}"
        annotate(ax, text, (max(end, zero), len(frame)), fontweight="bold", zorder=6)
    describe(ax, measure.name, measure.unit)
    ax.set_ylim(len(frame) + 0.6, -0.6)
    plain_rows(ax, shown=first)


def _name_stages(ax: Axes, names: Sequence[str]) -> None:
    """Name the stages at the left, the last one bold."""
    names = [name if len(name) <= 30 else f"{name[:29]}…" for name in names]
    ax.set_yticks(range(len(names)), [escaped(name) for name in names], fontsize=TEXT)
    ax.get_yticklabels()[-1].set_fontweight("bold")


def _gain_key(ax: Axes) -> None:
    """Explain the looks of gain and cost, below the axes at the right."""
    handles = [Patch(label="gain", **_GAIN), Patch(label="cost", **_COST)]
    legend(ax, "upper right", (1.0, -0.09), handles, ncols=2)


def _scale(ax: Axes, measure: _Measure, low: float, high: float) -> float:
    """Set the x range with room for texts at the right and return the start of full bars."""
    if measure.higher_is_better:
        span = (high - low) or 0.02 * abs(high) or 1.0
        left, right = low - 0.35 * span, high + 1.15 * span
    else:
        left, right = 0.0, (high or 1.0) * 1.55
    ax.set_xlim(left, right)
    ax.set_xticks([t for t in MaxNLocator(5).tick_values(left, right) if left <= t <= high + 0.05 * (high - left)])
    return left


def _unchanged(frame: pd.DataFrame, place: int, measure: _Measure) -> str:
    """Return the text of a stage without a change."""
    if measure.structural and frame["timed_at"].iloc[place] == frame["timed_at"].iloc[place - 1]:
        return "same structure"
    return "same model" if frame["kind"].iloc[place] == "backend" else "no change"


def _full_bar(ax: Axes, place: int, value: float, zero: float, color: str) -> None:
    ax.barh(place, value - zero, left=zero, height=_HEIGHT, color=color, edgecolor=style.INK, linewidth=0.6, zorder=3)


def _step_bar(
    ax: Axes, place: int, before: float, after: float, measure: _Measure, together: str, unchanged: str
) -> None:
    change = after - before
    if abs(change) <= 1e-9 * max(abs(before), 1e-12):
        annotate(ax, f"{unchanged}{together}", (before, place), color=style.MUTED)
        return
    gain = (change > 0) == measure.higher_is_better
    ax.barh(place, change, left=before, height=_HEIGHT, zorder=3, **(_GAIN if gain else _COST))
    annotate(ax, f"{_signed(change)}{together}", (max(before, after), place), zorder=6)


def _ratio(start: float, end: float, measure: _Measure) -> str:
    if measure.higher_is_better:
        return f" ({_signed(end - start)})"
    if measure.result:
        return f" ({measure.result})"
    change = 100 * (end / start - 1) if start > 0 else 0.0
    return f" ({_signed(change)} %)" if abs(change) >= 0.5 else ""


def _signed(change: float) -> str:
    return f"{'+' if change >= 0 else '−'}{_number(abs(change))}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
