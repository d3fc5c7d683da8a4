"""Waterfall of one recipe: latency, MACs, size and quality after each step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.format.speedup import row_speedup
from workbench.plots.charts.study.stages import Measure, draw_measure, gain_key, name_stages
from workbench.plots.charts.study.tidy import latency_rows, rows_of, why_empty
from workbench.plots.drawing.figure import empty_chart, figure_of, new_figure, style_axes
from workbench.present import style
from workbench.study.results.relative_latency import baseline_of, with_relative_latency

COLUMNS = [
    *("stage", "label", "kind", "latency_ms_rel", "size_mib", "params", "macs", "quality_validation"),
    *("latency_ms_change", "size_mib_change", "params_change", "macs_change", "quality_change", "timed_at"),
]
TRAINING = ("Distill", "Recover")


def waterfall_data(rows: Any, *, batch_size: int = 32, row: Mapping[str, Any] | None = None) -> pd.DataFrame:
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
    rows: Any, *, batch_size: int = 32, row: Mapping[str, Any] | None = None, ax: Axes | None = None
) -> Figure:
    """Draw gain and cost of each step from the baseline to the recommended variant.

    Parameters
    ----------
    rows
        A study's rows: list of dicts, DataFrame or Study.
    batch_size
        Ignored: the row has an operating point.
    row
        Draw this row instead of the recommended one.
    ax
        Draw only the latency, here.
    """
    frame = waterfall_data(rows, batch_size=batch_size, row=row)
    if frame.empty:
        return empty_chart(ax, _why_none(rows))
    chosen = row if row is not None else next(r for r in rows_of(rows) if r.get("recommended") is True)
    measures = [m for m in _measures(chosen) if frame[m.column].notna().sum() >= 1]
    if ax is None:
        height = 1.75 + 0.52 * (len(frame) + 1)
        axes = new_figure(2.3 + 2.3 * len(measures), height, columns=len(measures), share_y=True)[1]
    else:
        axes = [style_axes(ax)]
    for number, (target, measure) in enumerate(zip(axes, measures, strict=False)):
        draw_measure(target, frame, measure, first=number == 0)
    gain_key(axes[min(len(axes), len(measures)) - 1])
    name_stages(axes[0], [*frame["label"], f"result: {chosen['recipe']}"])
    return figure_of(axes[0])


def _measures(row: Mapping[str, Any]) -> Sequence[Measure]:
    unit = f"(ms/batch of {row['batch_size']}) ↓"
    return (
        Measure("latency_ms_rel", "Latency", unit, "timed", structural=True, result=row_speedup(row).brief),
        Measure("macs", "MACs", "(million/sample) ↓", "counted", scale=1e-6),
        Measure("size_mib", "Size", "(MiB on disk) ↓", "measured", structural=True),
        Measure("quality_validation", "Quality", "(validation split) ↑", "measured", higher_is_better=True),
    )


def _stage(
    label: str, kind: str, row: Mapping[str, Any], step: Mapping[str, Any] | None, *, after: bool
) -> dict[str, Any]:
    moment = "after" if after else "before"
    report = {name: (step or {}).get(f"{name}_{moment}") for name in ("params", "macs", "quality")}
    return {
        "label": label,
        "kind": kind,
        "timed_at": label,
        "latency_ms_rel": row.get("latency_ms_rel", np.nan),
        "size_mib": row.get("size_mib", np.nan),
        "params": report["params"] if report["params"] is not None else row.get("params", np.nan),
        "macs": report["macs"] if report["macs"] is not None else row.get("macs", np.nan),
        "quality_validation": report["quality"] if report["quality"] is not None else np.nan,
    }


def _share_structure(stages: list[dict[str, Any]], steps: Sequence[Mapping[str, Any]]) -> None:
    """Give a stage that was not timed the figures of the next one if that one only trains the same structure."""
    first = len(stages) - len(steps)
    for place in range(len(stages) - 2, first - 1, -1):
        here, after = stages[place], stages[place + 1]
        trained = steps[place + 1 - first]["step"].get("step") in TRAINING
        if trained and pd.isna(here["latency_ms_rel"]) and not pd.isna(after["latency_ms_rel"]):
            shared = {name: after[name] for name in ("latency_ms_rel", "size_mib", "timed_at")}
            here.update(shared)


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


def _why_none(rows: Any) -> str:
    states = [row.get("state") for row in rows_of(rows)]
    if "complete" not in states:
        return why_empty(rows, "a waterfall")
    return "No variant is recommended, because none met the quality limit."
