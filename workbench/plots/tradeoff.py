"""Latency against quality: the chart that answers which variant to take."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.plots.canvas import dress, figure_of, new_figure, plural, say, title
from workbench.plots.frame import choose_batch, complete_frame, pareto_mask, why_empty
from workbench.plots.scatter import Axis, key, scatter

COLUMNS = [
    "recipe",
    "recipe_id",
    "technique",
    "backend",
    "batch_size",
    "latency_ms_p50",
    "latency_ms_low",
    "latency_ms_high",
    "paired_ms",
    "paired_ms_low",
    "paired_ms_high",
    "quality",
    "quality_low",
    "quality_high",
    "quality_drop",
    "speedup",
    "speedup_low",
    "speedup_high",
    "size_mib",
    "pareto",
    "recommended",
    "baseline",
]


def tradeoff_data(rows: Any, *, batch_size: int = 32) -> pd.DataFrame:
    """Return one line per complete trial at a batch size, fastest first, with Pareto and recommended marks.

    Latency is in milliseconds per batch, quality in the metric's own units. ``paired_ms`` is the baseline's latency
    divided by the speed-up, which was measured in turns with it: two rows can be compared by it although the machine's
    pace drifted between them. Its interval is that of the speed-up; the front goes by its slow end. Where
    ``batch_size`` was not measured, the recommended row's batch or the largest one stands in.
    """
    frame = complete_frame(rows)
    frame = frame[frame["batch_size"] == choose_batch(frame, batch_size)]
    frame = frame.dropna(subset=["latency_ms_p50", "quality"]).copy()
    frame["pareto"] = pareto_mask(frame["certain_ms"], frame["quality"])
    base = frame.loc[frame["baseline"], "latency_ms_p50"]
    scale = float(base.iloc[0]) if len(base) else float("nan")
    frame["paired_ms"] = (scale / frame["speedup"]).fillna(frame["latency_ms_p50"])
    frame["paired_ms_low"] = (scale / frame["speedup_high"]).fillna(frame["latency_ms_low"])
    frame["paired_ms_high"] = (scale / frame["speedup_low"]).fillna(frame["latency_ms_high"])
    frame["batch_size"] = frame["batch_size"].astype(int)
    return frame.sort_values("paired_ms")[COLUMNS].reset_index(drop=True)


def plot_tradeoff(
    rows: Any, *, batch_size: int = 32, quality_drop: float | None = None, ax: Axes | None = None
) -> Figure:
    """Draw latency (ms per batch, lower is better) against quality (higher is better) at one batch size.

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
    >>> figure = plot_tradeoff([])  # an empty chart says why it is empty
    """
    frame = tradeoff_data(rows, batch_size=batch_size)
    ax = dress(ax) if ax is not None else new_figure(9.0, 2.6 if frame.empty else 5.6)[1][0]
    if frame.empty:
        say(ax, why_empty(rows, "latency with quality"))
        return figure_of(ax)
    batch = int(frame["batch_size"].iloc[0])
    axis = Axis("paired_ms", f"latency, ms per batch of {batch} (lower is better)", "paired_ms_low", "paired_ms_high")
    counts = f"{plural(frame['recipe_id'].nunique(), 'recipe')} on {plural(frame['backend'].nunique(), 'backend')}"
    title(ax, "Latency and quality", f"{counts}, batch {batch}; bars: 95 % intervals")
    label_points = scatter(ax, frame, axis, quality_drop=quality_drop, label=_label)
    key(ax, frame)
    label_points()
    return figure_of(ax)


def _label(row: Any) -> str:
    if row["recommended"]:
        figures = f"{row['speedup']:.3g}×, drop {row['quality_drop']:.2g}".replace("-", "−")
        return f"recommended\n{row['recipe']}\n{figures}"
    if row["baseline"]:
        return f"{row['recipe']} (baseline)"
    return str(row["recipe"])
