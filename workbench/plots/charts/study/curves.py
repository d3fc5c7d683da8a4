"""Lines of a study: throughput over batch size, and a column over a recipe parameter."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workbench.core.errors import StudyError, unknown_name
from workbench.core.format.numbers import plural
from workbench.plots.charts.study.scatter import technique_key
from workbench.plots.charts.study.tidy import at_batch_size, complete_frame, front_mask, why_empty
from workbench.plots.drawing.figure import (
    axes_or_new,
    describe,
    empty_chart,
    figure_of,
    fit_axis,
    legend_right,
    new_figure,
    settings_axis,
    style_axes,
)
from workbench.plots.drawing.labels import Label, spread_right
from workbench.plots.drawing.marks import lines
from workbench.present import style
from workbench.study.config import PRIMARY_BATCH

SERIES = ["recipe_id", "backend", "engine_json", "threads", "fidelity"]
"""The columns that identify a line: one variant over the batch sizes."""
_WRAP = 24  # letters of a label in one line
THROUGHPUT_COLUMNS = [
    *("recipe", "recipe_id", "technique", "backend", "engine_json", "threads", "fidelity", "batch_size"),
    *("throughput_per_s", "throughput_low", "throughput_high", "emphasis", "recommended", "baseline"),
]


def throughput_data(rows: Any, *, batch_size: int = PRIMARY_BATCH) -> pd.DataFrame:
    """Return samples per second for each variant and batch size, with the interval of the latency as timed.

    A variant is a recipe on a backend with engine options and threads. Reference rows are left out.

    ``emphasis`` is ``"recommended"``, ``"baseline"``, ``"pareto"`` (on the latency-quality front at ``batch_size``),
    ``"reference"`` (the recommended recipe or the float model on another backend) or ``""``.
    """
    frame = complete_frame(rows)
    frame = frame.dropna(subset=["throughput_per_s", "batch_size"]).copy()
    frame["batch_size"] = frame["batch_size"].astype(int)
    frame["threads"] = frame["threads"].fillna(0).astype(int)
    frame["throughput_low"] = 1000 * frame["batch_size"] / frame["latency_ms_high"]
    frame["throughput_high"] = 1000 * frame["batch_size"] / frame["latency_ms_low"]
    at = at_batch_size(frame, batch_size)
    recommended = frame["recipe_id"].isin(frame.loc[frame["recommended"], "recipe_id"])
    groups = {
        "recommended": _keys(frame[frame["recommended"]]),
        "baseline": _keys(frame[frame["baseline"]]),
        "pareto": _keys(at[front_mask(at, "latency_ms_rel")]),
        "reference": _keys(frame[recommended | (frame["technique"] == "float")]),
    }
    keys = frame[SERIES].itertuples(index=False, name=None)
    frame["emphasis"] = [next((word for word, some in groups.items() if key in some), "") for key in keys]
    order = frame.sort_values(["backend", "recipe", *SERIES, "batch_size"])
    return order[THROUGHPUT_COLUMNS].reset_index(drop=True)


def plot_throughput(rows: Any, *, batch_size: int = PRIMARY_BATCH, ax: Axes | None = None) -> Figure:
    """Draw samples per second over batch size, one panel per backend, with the baseline repeated in each.

    The recommended recipe, the float model and the recipes on the latency-quality front at ``batch_size`` have color
    and label, others are thin and gray. With ``ax``, all backends share that axes and differ by line style.
    """
    frame = throughput_data(rows, batch_size=batch_size)
    if frame.empty:
        return empty_chart(ax, why_empty(rows, "throughput"))
    backends = style.in_legend(frame["backend"], style.BACKENDS)
    groups = [[b] for b in backends] if ax is None else [backends]
    width = min(15.0, 1.9 + 3.2 * len(groups))
    axes = new_figure(width, 4.6, columns=len(groups), share_y=True)[1] if ax is None else [style_axes(ax)]
    baselines = [line for _, line in frame[frame["baseline"]].groupby(SERIES)]
    reference = max(baselines, key=len) if baselines else frame[frame["baseline"]]
    pending = []
    for number, (target, names) in enumerate(zip(axes, groups, strict=True)):
        settings_axis(target, sorted(set(frame["batch_size"])))
        fit_axis(target, "y", frame["throughput_per_s"], before=0.1, zero=True)
        panel = style.backend(names[0]).word if len(names) == 1 else "all backends"
        detail, label = ("bars: 95 % CI", "Throughput (samples/s) ↑") if number == 0 else ("same scale", None)
        describe(target, f"Throughput, {panel}", detail, x="Batch size (samples)", y=label)
        part = frame[frame["backend"].isin(names)]
        pending.append(_panel(target, part, reference, threads=frame["threads"].nunique() > 1))
    _legend(axes[-1], frame)
    for target, labels in zip(axes, pending, strict=True):  # last, to fit them to the final layout
        spread_right(target, labels)
    return figure_of(axes[0])


def _keys(frame: pd.DataFrame) -> set[tuple[Any, ...]]:
    return set(frame[SERIES].itertuples(index=False, name=None))


def _panel(ax: Axes, frame: pd.DataFrame, reference: pd.DataFrame, *, threads: bool) -> list[Label]:
    labels = []
    for _, line in frame.groupby(["emphasis", *SERIES], sort=True):
        labels += _line(ax, line.sort_values("batch_size"), threads=threads)
    if len(reference) and not frame["baseline"].any():
        ax.plot(reference["batch_size"], reference["throughput_per_s"], color=style.INK, linewidth=1.0, linestyle=":")
        last = reference.sort_values("batch_size").iloc[-1]
        labels.append(Label("baseline", last["batch_size"], last["throughput_per_s"], color=style.MUTED))
    return labels


def _line(ax: Axes, line: pd.DataFrame, *, threads: bool) -> list[Label]:
    last, emphasis = line.iloc[-1], line["emphasis"].iloc[-1]
    if not emphasis:
        ax.plot(line["batch_size"], line["throughput_per_s"], color=style.FAINT, linewidth=1.0, zorder=2)
        return []
    look = style.marker(last, linestyle=style.backend(last["backend"]).dash, linewidth=1.6, zorder=5)
    if emphasis == "recommended":
        look |= {"linewidth": 2.8, "zorder": 6}
    elif emphasis == "reference":
        look |= {"linewidth": 1.0, "markersize": look["markersize"] * 0.7}
    ax.plot(line["batch_size"], line["throughput_per_s"], **look)
    ax.vlines(line["batch_size"], line["throughput_low"], line["throughput_high"], color=look["color"], linewidth=1.2)
    text = {"recommended": "recommended:\n", "baseline": "baseline: "}.get(emphasis, "")
    text += textwrap.fill(str(last["recipe"]), _WRAP)
    text += " (survey)" if last["fidelity"] == "survey" else ""
    text += f"\n{plural(int(last['threads']), 'thread')}" if threads else ""
    bold = emphasis == "recommended"
    return [Label(text, last["batch_size"], last["throughput_per_s"], bold=bold, essential=True)]


def _legend(ax: Axes, frame: pd.DataFrame) -> None:
    handles = technique_key(frame.loc[frame["emphasis"] != "", "technique"], linestyle="-", linewidth=1.4)
    if (frame["emphasis"] == "").any():
        handles.append(Line2D([], [], color=style.FAINT, linewidth=1.4, label="other recipes"))
    handles.append(Line2D([], [], color=style.INK, linewidth=1.2, linestyle=":", label="baseline (float)"))
    legend_right(ax, handles)


def params_data(rows: Any, x: str, y: str = "quality", *, batch_size: int = PRIMARY_BATCH) -> pd.DataFrame:
    """Return the complete rows of one batch size that have both columns, sorted by backend and ``x``.

    Raises
    ------
    StudyError
        If there is no such column of numbers. Recipe parameters are columns such as ``params_prune_ratio``.
    """
    frame = complete_frame(rows)
    numeric = [str(name) for name in frame.select_dtypes("number").columns]
    for name in (x, y):
        if len(frame) and name not in numeric:
            raise StudyError(unknown_name("numeric column", name, numeric))
    columns = list(dict.fromkeys(["recipe", "recipe_id", "technique", "backend", "batch_size", "recommended", x, y]))
    if frame.empty:
        return frame.reindex(columns=columns)
    same = at_batch_size(frame, batch_size).dropna(subset=[x, y])
    return same.sort_values(["backend", x], ignore_index=True)[columns]


def plot_params(
    rows: Any, x: str, y: str = "quality", *, batch_size: int = PRIMARY_BATCH, ax: Axes | None = None
) -> Figure:
    """Draw a column over a recipe parameter, such as quality over ``params_prune_ratio``, one line per backend.

    Rows of recipes without that step are left out.

    Examples
    --------
    >>> study.run(wb.sweep(wb.Prune, ratio=[0.1, 0.3, 0.5]))  # doctest: +SKIP
    >>> wb.plots.plot_params(study, x="params_prune_ratio", y="quality")  # doctest: +SKIP
    """
    frame = params_data(rows, x, y, batch_size=batch_size)
    if frame.empty:
        return empty_chart(ax, why_empty(rows, x))
    target = axes_or_new(ax, 7.5, 4.4)
    names = {backend: style.backend(backend).word for backend in frame["backend"]}
    lines(target, frame, x, y, hue="backend", names=names)
    fit_axis(target, "x", frame[x])
    fit_axis(target, "y", frame[y])
    if len(names) > 1:
        legend_right(target)
    detail = f"batch size {int(frame['batch_size'].iloc[0])}, complete trials"
    return describe(target, f"{y} over {x}", detail, x=x, y=y)
