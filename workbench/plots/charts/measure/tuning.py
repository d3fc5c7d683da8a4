"""Settings that tuning measured: time relative to the default, with intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.plots.drawing.figure import axes_or_new, describe, empty_chart, fit_axis
from workbench.plots.drawing.frames import attribute_frame
from workbench.plots.drawing.marks import DOT, dot_rows, set_rows
from workbench.present import style

_LINE = 64


def tuning_data(result: Any) -> pd.DataFrame:
    """Return a row for each setting that :meth:`engine.tune` measured or skipped, in that order."""
    names = ("ratio", "ratio_low", "ratio_high", "rounds", "reason")
    frame = attribute_frame(
        result.table, {"stage": "stage", "name": "name", "ms": "median_ms", **{name: name for name in names}}
    )
    chosen = (frame["stage"] == "final") & bool(result.changes)
    return frame.assign(chosen=chosen, reason=frame["reason"].fillna(""))


def plot_tuning(result: Any, *, ax: Axes | None = None) -> Figure:
    """Draw the time of each setting of ``engine.tune()`` relative to the default; the chosen one is filled."""
    frame = tuning_data(result)
    # the best so far is measured again with each candidate: its first mark is enough
    again = frame.duplicated("name") & (frame["stage"] != "final")
    frame = frame[frame["ratio"].notna() & ~again]
    if len(frame) < 2:
        return empty_chart(ax, f"Nothing to draw: no setting but the default was measured. {result.verdict}")
    rows = frame.to_dict("records")
    labels = [_label(row) for row in rows]
    width = 4.9 + 0.07 * max(len(line) for label in labels for line in label.splitlines())
    target = axes_or_new(ax, width, 1.5 + 0.42 * len(rows))
    texts = [f"{row['ms']:.3g} ms" for row in rows]
    low, high = frame["ratio_low"].to_list(), frame["ratio_high"].to_list()
    dot_rows(target, frame["ratio"].to_list(), texts, low=low, high=high, looks=[_look(row) for row in rows])
    target.axvline(1.0, color=style.MUTED, linewidth=1.0, zorder=2)
    set_rows(target, labels)
    fit_axis(target, "x", [0.95, 1.05, *low, *high], after=0.3)
    title = f"Settings of {result.backend}, batch {result.batch_size}"
    return describe(target, title, _outcome(result), x="Time relative to the default ↓")


def _outcome(result: Any) -> str:
    if result.decided:
        return f"95 % CI; {'filled green: chosen' if result.changes else 'the default stays'}"
    return textwrap.fill(f"95 % CI; undecided. {result.verdict}", _LINE)


def _look(row: Mapping[Any, Any]) -> dict[str, Any]:
    if row["stage"] == "default":
        return {"color": style.MUTED}
    return {"color": DOT, "markerfacecolor": style.GOOD if row["chosen"] else "white"}


def _label(row: Mapping[Any, Any]) -> str:
    name = str(row["name"]).replace("'", "").replace(", ", "\n")
    return f"{name}\n(measured again)" if row["stage"] == "final" else name
