"""Quality over latency, over peak memory and over model size, with the Pareto front and the recommended variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.format.numbers import plural
from workbench.core.format.speedup import row_speedup
from workbench.plots.charts.study.scatter import Axis, key, mark_label, scatter
from workbench.plots.charts.study.tidy import at_batch_size, complete_frame, front_mask, why_empty
from workbench.plots.drawing.figure import axes_or_new, describe, empty_chart, figure_of, new_figure, style_axes
from workbench.study.config import PRIMARY_BATCH
from workbench.study.results.frame import PREFIX

COLUMNS = [
    *("recipe", "recipe_id", "technique", "backend", "batch_size", "threads"),
    *("latency_ms_rel", "latency_ms_rel_low", "latency_ms_rel_high", "latency_ms_p50"),
    *("quality", "quality_low", "quality_high", "quality_drop", "speedup", "speedup_low", "speedup_high", "verdict"),
    *("size_mib", "reference", "fidelity", "pareto", "recommended", "baseline"),
]


def tradeoff_data(rows: Any, *, batch_size: int = PRIMARY_BATCH) -> pd.DataFrame:
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
    rows: Any, *, batch_size: int = PRIMARY_BATCH, quality_drop: float | None = None, ax: Axes | None = None
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
    """
    frame = tradeoff_data(rows, batch_size=batch_size)
    if frame.empty:
        return empty_chart(ax, why_empty(rows, "latency with quality"))
    ax = axes_or_new(ax, 9.0, 5.6)
    batch = int(frame["batch_size"].iloc[0])
    axis = Axis("latency_ms_rel", f"Latency (ms/batch of {batch}) ↓", "latency_ms_rel_low", "latency_ms_rel_high")
    ranked = frame[frame["reference"] == ""]
    counts = f"{plural(ranked['recipe_id'].nunique(), 'recipe')} on {plural(ranked['backend'].nunique(), 'backend')}"
    figure = describe(ax, "Latency and quality", f"{counts}; latency = baseline latency / speedup; bars: 95 % CI")
    frame["several_baselines"] = frame.loc[frame["baseline"], "threads"].nunique() > 1
    label_points = scatter(ax, frame, axis, quality_drop=quality_drop, label=_label)
    key(ax, frame)
    label_points()
    return figure


def _label(row: Any) -> str:
    if row["recommended"]:
        return f"{mark_label(row)}\n{row_speedup(row)}".replace(" (95 %", "\n(95 %")
    several = row["baseline"] and row["several_baselines"]
    return f"{row['recipe']} (baseline, {plural(int(row['threads']), 'thread')})" if several else mark_label(row)


MEMORY_COLUMNS = [
    *("recipe", "recipe_id", "technique", "backend", "batch_size", "peak_rss_mib", "size_mib", "quality"),
    *("quality_low", "quality_high", "quality_drop", "threads", "reference", "fidelity", "pareto", "pareto_size"),
    *("recommended", "baseline"),
]


def memory_data(rows: Any, *, batch_size: int = PRIMARY_BATCH) -> pd.DataFrame:
    """Return a row per complete trial at a batch size, sorted by peak memory.

    ``peak_rss_mib`` is the peak of the trial's process, ``size_mib`` the size of the model on disk; ``pareto`` and
    ``pareto_size`` mark the Pareto front of quality and each of the two. Reference rows are left out.
    """
    frame = at_batch_size(complete_frame(rows), batch_size)
    frame = frame.dropna(subset=["quality"]).dropna(subset=["peak_rss_mib", "size_mib"], how="all").copy()
    frame["pareto"] = front_mask(frame, "peak_rss_mib")
    frame["pareto_size"] = front_mask(frame, "size_mib")
    frame["batch_size"] = frame["batch_size"].astype(int)
    return frame.sort_values("peak_rss_mib")[MEMORY_COLUMNS].reset_index(drop=True)


def plot_memory(
    rows: Any, *, batch_size: int = PRIMARY_BATCH, quality_drop: float | None = None, ax: Axes | None = None
) -> Figure:
    """Draw quality over peak memory of the process (MiB) and over model size on disk (MiB).

    Arguments are those of :func:`plot_tradeoff`; ``ax`` gets the peak memory alone.
    """
    frame = memory_data(rows, batch_size=batch_size)
    if frame.empty:
        return empty_chart(ax, why_empty(rows, "memory with quality"))
    panels = _panels(frame, alone=ax is not None)
    figure_width = 3.4 + 4.2 * len(panels)
    axes = [style_axes(ax)] if ax is not None else new_figure(figure_width, 5.0, columns=len(panels), share_y=True)[1]
    pending = []
    for target, panel in zip(axes, panels, strict=True):
        describe(target, panel.title, panel.detail)
        points = frame.dropna(subset=[panel.axis.column])
        if panel.axis.column == "size_mib":
            points = _one_per_recipe(points)
        options: Any = {"label": panel.label, "fill": panel.fill, "quality_drop": quality_drop, "whole": frame}
        pending.append(scatter(target, points, panel.axis, **options))
    for target in axes[1:]:
        target.set_ylabel("")
    key(axes[-1], frame)
    for write in pending:
        write()
    return figure_of(axes[0])


@dataclass(frozen=True)
class _Panel:
    axis: Axis
    title: str
    detail: str
    label: Callable[[Any], str]
    fill: str | None = None


def _panels(frame: pd.DataFrame, *, alone: bool) -> list[_Panel]:
    """Return a panel for each figure that was measured; the detail of a single panel names the missing one."""
    batch = int(frame["batch_size"].iloc[0])
    has_peak, has_size = frame["peak_rss_mib"].notna().any(), frame["size_mib"].notna().any()
    peak_axis = Axis("peak_rss_mib", f"Peak memory at batch {batch} (MiB) ↓")
    size_axis = Axis("size_mib", "Model size (MiB on disk) ↓")
    peak_detail = "runtime included, one process per trial"
    size_detail = "the file loaded by the backend"
    peak = _Panel(peak_axis, "Peak memory and quality", peak_detail, _memory_label)
    size = _Panel(size_axis, "Model size and quality", size_detail, mark_label, "full")
    if has_peak and has_size and not alone:
        return [peak, size]
    if has_peak:
        return [peak if alone else replace(peak, detail=f"{peak_detail}; size on disk was not measured")]
    return [replace(size, detail=f"{size_detail}; peak memory was not measured")]


def _one_per_recipe(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one point for the backends of a recipe whose files differ by a few percent at most."""
    order = frame.sort_values(["recommended", "baseline"], ascending=False, kind="stable")
    rough = (np.log(order["size_mib"].clip(lower=1e-9)) * 16).round()
    once = order[~order.assign(rough=rough).duplicated(["recipe_id", "rough", "quality"])]
    return once.assign(pareto=once["pareto_size"])


def _memory_label(row: Any) -> str:
    has_size = row["recommended"] and pd.notna(row["size_mib"])
    return f"{mark_label(row)}\n{row['size_mib']:.2g} MiB on disk" if has_size else mark_label(row)
