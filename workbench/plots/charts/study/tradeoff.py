"""Quality over latency, with the Pareto front and the recommended variant."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.format.numbers import plural
from workbench.core.format.speedup import row_speedup
from workbench.plots.charts.study.scatter import Axis, key, mark_label, scatter
from workbench.plots.charts.study.tidy import at_batch_size, complete_frame, front_mask, why_empty
from workbench.plots.drawing.figure import axes_or_new, empty_chart, figure_of, set_title
from workbench.study.results.params import PREFIX

COLUMNS = [
    *("recipe", "recipe_id", "technique", "backend", "batch_size", "threads"),
    *("latency_ms_rel", "latency_ms_rel_low", "latency_ms_rel_high", "latency_ms_p50"),
    *("quality", "quality_low", "quality_high", "quality_drop", "speedup", "speedup_low", "speedup_high", "verdict"),
    *("size_mib", "reference", "fidelity", "pareto", "recommended", "baseline"),
]


def tradeoff_data(rows: Any, *, batch_size: int = 32) -> pd.DataFrame:
    """Return a row per complete trial at a batch size, sorted by latency, with Pareto and recommended marks.

    ``latency_ms_rel`` is the baseline-normalized latency in ms per batch, quality is in the metric's units. Reference
    rows and survey rows are never on the front; a reference without a quality has that of the baseline, because its
    model is the same. If ``batch_size`` was not measured, the recommended row's or the largest one is used.
    """
    frame = at_batch_size(complete_frame(rows, references=True), batch_size)
    frame = frame.dropna(subset=["latency_ms_rel"]).copy()
    same = (frame["reference"] != "") & frame["quality"].isna()
    for name in ("quality", "quality_low", "quality_high"):
        frame.loc[same, name] = frame.loc[frame["baseline"], name].mean()
    frame = frame.dropna(subset=["quality"])
    frame["pareto"] = front_mask(frame, "latency_ms_rel")
    frame["batch_size"] = frame["batch_size"].astype(int)
    params = [name for name in frame.columns if name.startswith(PREFIX)]
    return frame.sort_values("latency_ms_rel")[[*COLUMNS, *params]].reset_index(drop=True)


def plot_tradeoff(
    rows: Any, *, batch_size: int = 32, quality_drop: float | None = None, ax: Axes | None = None
) -> Figure:
    """Draw quality over baseline-normalized latency at one batch size.

    Parameters
    ----------
    rows
        A study's rows: list of dicts, DataFrame or Study.
    batch_size
        The batch size to show.
    quality_drop
        The largest acceptable drop below the baseline, in the metric's units; drawn as a line.
    ax
        Draw here instead of into a new figure.

    Examples
    --------
    >>> figure = plot_tradeoff([])  # a chart without data shows the reason
    """
    frame = tradeoff_data(rows, batch_size=batch_size)
    if frame.empty:
        return empty_chart(ax, why_empty(rows, "latency with quality"))
    ax = axes_or_new(ax, 9.0, 5.6)
    batch = int(frame["batch_size"].iloc[0])
    axis = Axis("latency_ms_rel", f"Latency (ms/batch of {batch}) ↓", "latency_ms_rel_low", "latency_ms_rel_high")
    ranked = frame[frame["reference"] == ""]
    counts = f"{plural(ranked['recipe_id'].nunique(), 'recipe')} on {plural(ranked['backend'].nunique(), 'backend')}"
    set_title(ax, "Latency and quality", f"{counts}; latency = baseline latency / speedup; bars: 95 % CI")
    frame["several_baselines"] = frame.loc[frame["baseline"], "threads"].nunique() > 1
    label_points = scatter(ax, frame, axis, quality_drop=quality_drop, label=_label)
    key(ax, frame)
    label_points()
    return figure_of(ax)


def _label(row: Any) -> str:
    if row["recommended"]:
        return f"{mark_label(row)}\n{row_speedup(row)}".replace(" (95 %", "\n(95 %")
    several = row["baseline"] and row["several_baselines"]
    return f"{row['recipe']} (baseline, {plural(int(row['threads']), 'thread')})" if several else mark_label(row)
