"""Samples per second against batch size, one panel per backend."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from workbench.plots.drawing.edge_labels import spread_right
from workbench.plots.drawing.figure import TEXT, dress, figure_of, new_figure, plain_log, plural, say, title, wants_log
from workbench.plots.drawing.labels import Label
from workbench.plots.tidy import choose_batch, complete_frame, front_mask, why_empty
from workbench.present import style

COLUMNS = [
    "recipe",
    "recipe_id",
    "technique",
    "backend",
    "engine_json",
    "threads",
    "fidelity",
    "batch_size",
    "throughput_per_s",
    "throughput_low",
    "throughput_high",
    "emphasis",
    "recommended",
    "baseline",
]


SERIES = ["recipe_id", "backend", "engine_json", "threads", "fidelity"]
"""The columns that name a line: one variant over the batch sizes."""


def throughput_data(rows: Any, *, batch_size: int = 32) -> pd.DataFrame:
    """Return samples per second for each variant and batch size, with the interval of the latency as timed.

    A variant is a recipe on a backend with the engine's options and its threads. Reference rows are left out.

    ``emphasis`` names why a line stands out: ``"recommended"``, ``"baseline"``, ``"pareto"`` (on the
    latency-quality front at ``batch_size``), ``"reference"`` (the recommended recipe or the float model on
    another backend) or ``""``.
    """
    frame = complete_frame(rows)
    frame = frame.dropna(subset=["throughput_per_s", "batch_size"]).copy()
    frame["batch_size"] = frame["batch_size"].astype(int)
    frame["threads"] = frame["threads"].fillna(0).astype(int)
    frame["throughput_low"] = 1000 * frame["batch_size"] / frame["latency_ms_high"]
    frame["throughput_high"] = 1000 * frame["batch_size"] / frame["latency_ms_low"]
    at = frame[frame["batch_size"] == choose_batch(frame, batch_size)]
    best = at[front_mask(at, "latency_ms_rel")]
    known = frame.loc[frame["recommended"], "recipe_id"]
    groups = {
        "recommended": _keys(frame[frame["recommended"]]),
        "baseline": _keys(frame[frame["baseline"]]),
        "pareto": _keys(best),
        "reference": _keys(frame[frame["recipe_id"].isin(known) | (frame["technique"] == "float")]),
    }
    keys = [*frame[SERIES].itertuples(index=False, name=None)]
    frame["emphasis"] = [next((word for word, some in groups.items() if key in some), "") for key in keys]
    order = frame.sort_values(["backend", "recipe", *SERIES, "batch_size"])
    return order[COLUMNS].reset_index(drop=True)


def plot_throughput(rows: Any, *, batch_size: int = 32, ax: Axes | None = None) -> Figure:
    """Draw samples per second against batch size.

    One panel per backend, with the baseline repeated in each. The recommended recipe, the float model and the
    recipes on the latency-quality front at ``batch_size`` are drawn in colour and named, others thin and grey.
    With ``ax``, all backends share that axes and their line styles tell them apart.
    """
    frame = throughput_data(rows, batch_size=batch_size)
    if frame.empty:
        target = new_figure(9.0, 2.6)[1][0] if ax is None else ax
        say(target, why_empty(rows, "throughput"))
        return figure_of(target)
    present = set(frame["backend"])
    backends = [b for b in style.BACKENDS if b in present] + sorted(present - set(style.BACKENDS))
    groups = [[b] for b in backends] if ax is None else [backends]
    width = min(15.0, 1.9 + 3.2 * len(groups))
    axes = new_figure(width, 4.6, columns=len(groups), share_y=True)[1] if ax is None else [dress(ax)]
    _axes_scale(axes, frame)
    baselines = [line for _, line in frame[frame["baseline"]].groupby(SERIES)]
    reference = max(baselines, key=len) if baselines else frame[frame["baseline"]]
    several = frame["threads"].nunique() > 1
    pending = []
    for number, (target, names) in enumerate(zip(axes, groups, strict=True)):
        words = style.backend(names[0]).word if len(names) == 1 else "all backends"
        title(target, f"Throughput, {words}", "bars: 95 % CI" if number == 0 else "same scale")
        pending.append(_panel(target, frame[frame["backend"].isin(names)], reference, threads=several))
        target.set_xlabel("Batch size (samples)", fontsize=TEXT + 0.5, color=style.INK)
    axes[0].set_ylabel("Throughput (samples/s) ↑", fontsize=TEXT + 0.5, color=style.INK)
    _legend(axes[-1], frame)
    for target, labels in zip(axes, pending, strict=True):  # last, since they are fitted to the final layout
        spread_right(target, labels)
    return figure_of(axes[0])


def _keys(frame: pd.DataFrame) -> set[tuple[Any, ...]]:
    return set(frame[SERIES].itertuples(index=False, name=None))


def _axes_scale(axes: list[Axes], frame: pd.DataFrame) -> None:
    sizes = sorted(set(frame["batch_size"]))
    values = frame["throughput_per_s"]
    log = wants_log(list(values))
    for target in axes:
        target.set_xscale("log", base=2)
        target.xaxis.set_major_locator(FixedLocator(sizes))
        target.xaxis.set_major_formatter(FixedFormatter([str(size) for size in sizes]))
        target.xaxis.set_minor_locator(NullLocator())
        target.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
        if log:
            target.set_yscale("log")
            target.set_ylim(values.min() / 1.35, values.max() * 1.35)
            plain_log(target.yaxis, *target.get_ylim())
        else:
            target.set_ylim(0, values.max() * 1.12)


def _panel(ax: Axes, frame: pd.DataFrame, reference: pd.DataFrame, *, threads: bool) -> list[Label]:
    labels = []
    for _, line in frame.groupby(["emphasis", *SERIES], sort=True):
        label = _line(ax, line, threads=threads)
        if label:
            labels.append(label)
    if len(reference) and not frame["baseline"].any():
        ax.plot(reference["batch_size"], reference["throughput_per_s"], color=style.INK, linewidth=1.0, linestyle=":")
        last = reference.sort_values("batch_size").iloc[-1]
        labels.append(Label("baseline", last["batch_size"], last["throughput_per_s"], colour=style.MUTED))
    return labels


def _line(ax: Axes, line: pd.DataFrame, *, threads: bool) -> Label | None:
    line = line.sort_values("batch_size")
    last = line.iloc[-1]
    if not last["emphasis"]:
        ax.plot(line["batch_size"], line["throughput_per_s"], color=style.FAINT, linewidth=1.0, zorder=2)
        return None
    look = style.marker(last, linestyle=style.backend(last["backend"]).dash, linewidth=1.6, zorder=5)
    if last["emphasis"] == "recommended":
        look |= {"linewidth": 2.8, "zorder": 6}
    elif last["emphasis"] == "reference":
        look |= {"linewidth": 1.0, "markersize": look["markersize"] * 0.7}
    ax.plot(line["batch_size"], line["throughput_per_s"], **look)
    known = line.dropna(subset=["throughput_low", "throughput_high"])
    ax.vlines(
        known["batch_size"], known["throughput_low"], known["throughput_high"], color=look["color"], linewidth=1.2
    )
    bold = last["emphasis"] == "recommended"
    words = {"recommended": "recommended:\n", "baseline": "baseline: "}.get(last["emphasis"], "") + str(last["recipe"])
    words += " (survey)" if last["fidelity"] == "survey" else ""
    words += f"\n{plural(int(last['threads']), 'thread')}" if threads else ""
    return Label(words, last["batch_size"], last["throughput_per_s"], bold=bold, essential=True)


def _legend(ax: Axes, frame: pd.DataFrame) -> None:
    drawn = set(frame.loc[frame["emphasis"] != "", "technique"])
    techniques = [t for t in style.TECHNIQUES if t in drawn] + (["other"] if drawn - set(style.TECHNIQUES) else [])
    handles = []
    for name in techniques:
        look = style.marker({"technique": name, "backend": "openvino"}, linestyle="-", linewidth=1.4)
        handles.append(Line2D([], [], label=style.technique(name).word, **look))
    if (frame["emphasis"] == "").any():
        handles.append(Line2D([], [], color=style.FAINT, linewidth=1.4, label="other recipes"))
    handles.append(Line2D([], [], color=style.INK, linewidth=1.2, linestyle=":", label="baseline (float, eager)"))
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    ax.legend(handles=handles, frameon=False, fontsize=TEXT - 0.5, labelspacing=0.65, **place)
