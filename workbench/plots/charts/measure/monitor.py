"""Resources over the time of a run: CPU, memory and GPU, with pauses and marks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.format.numbers import short
from workbench.plots.drawing import boxes
from workbench.plots.drawing.figure import TEXT, annotate, describe, empty_chart, figure_of, legend, new_stack
from workbench.plots.drawing.frames import require
from workbench.present import style

OWN, ALL, GPU = style.PALETTE[0], "#8c8c8c", style.GOOD
_PAUSE = style.PALE_PAUSE
_LEVELS = 3
_LEVEL_IN = 0.16  # inches of a line of names
_NEEDED = ("columns", "pauses", "marks", "seconds", "cost")


class _Panel(NamedTuple):
    """A column over time; the axis of a share ends at 100 %."""

    title: str
    column: str
    color: str
    unit: str
    share: bool = False


_PANELS = (
    _Panel("CPU (% of the cores allowed)", "cpu_percent", OWN, "%", share=True),
    _Panel("Memory of the process tree (MiB)", "rss_mib", OWN, "MiB"),
    _Panel("GPU utilization (%)", "gpu_percent", GPU, "%", share=True),
    _Panel("GPU memory (MiB)", "gpu_memory_mib", GPU, "MiB"),
    _Panel("GPU power (W)", "gpu_watts", GPU, "W"),
)


def monitor_data(monitor: Any) -> pd.DataFrame:
    """Return a row for each sample of a Monitor; ``part`` numbers the parts between pauses."""
    fits = all(hasattr(monitor, name) for name in _NEEDED)
    require(fits, "plot_monitor", "a workbench.measure.Monitor that has run", monitor)
    frame = pd.DataFrame(monitor.columns())
    starts = [pause.start_s for pause in monitor.pauses]
    frame["part"] = np.searchsorted(starts, frame["at_s"] - frame["span_s"] / 2) if len(frame) else []
    return frame


def plot_monitor(monitor: Any, *, title: str = "Resources of the run") -> Figure:
    """Draw CPU and memory, and the GPU if there is one, over the time of the run.

    Shaded times are pauses for timing, in which nothing is sampled; dotted lines are marks. ``monitor`` is a
    :class:`workbench.measure.Monitor`, running or stopped.
    """
    frame = monitor_data(monitor)
    if frame.empty:
        return empty_chart(None, "Nothing was sampled: the run was shorter than the time between two samples.")
    panels = [panel for panel in _PANELS if frame[panel.column].notna().any()]
    seconds = float(monitor.seconds)
    scale, unit = (1.0, "s") if seconds < 300 else (60.0, "min") if seconds < 3 * 3600 else (3600.0, "h")
    marked = bool(monitor.marks)
    heights = [_LEVELS * _LEVEL_IN] * marked + [1.35] * len(panels)
    figure, axes = new_stack(9.0, heights)
    for ax, panel in zip(axes[marked:], panels, strict=True):
        _draw(ax, frame, panel, scale)
        _shade(ax, monitor, scale)
    describe(axes[-1], x=f"Time ({unit})")
    axes[-1].set_xlim(0, seconds / scale)
    cost = str(monitor.cost)
    detail = f"{cost[0].upper()}{cost[1:]}.{' Shaded: paused for timing.' if monitor.pauses else ''}"
    describe(axes[0], title, detail)
    if marked:
        _shrink_strip(axes[0], heights, _name_marks(axes[0], monitor, scale) * _LEVEL_IN)
    else:  # above the title of the first panel
        axes[0].set_title(axes[0].get_title(loc="left"), loc="left", fontsize=TEXT, color=style.MUTED, pad=TEXT + 14)
    return figure


def _shrink_strip(strip: Axes, heights: list[float], height: float) -> None:
    """Give the strip of names the height it needs, and shrink the figure by the difference."""
    figure, spec = figure_of(strip), strip.get_subplotspec()
    if spec is not None:
        spec.get_gridspec().set_height_ratios([height, *heights[1:]])
        figure.set_figheight(figure.get_figheight() - heights[0] + height)


def _draw(ax: Axes, frame: pd.DataFrame, panel: _Panel, scale: float) -> None:
    is_cpu = panel.column == "cpu_percent"
    if is_cpu and frame["machine_percent"].notna().any():
        _steps(ax, frame, "machine_percent", ALL, scale, label="all processes on these cores", fill=0.22, width=0.8)
    label = "the process tree" if is_cpu else ""
    _steps(ax, frame, panel.column, panel.color, scale, label=label, fill=0.16, width=1.4)
    ax.set_ylim(0, 105 if panel.share else max(1.25 * frame[panel.column].max(), 1e-9))
    if panel.share:
        ax.set_yticks([0, 50, 100])
    else:
        _name_peak(ax, frame, panel, scale)
    annotate(ax, panel.title, (0, 1), (0, 4), coords="axes fraction", va="baseline", fontsize=TEXT)
    if is_cpu:
        legend(ax, "lower right", (1.0, 0.97), ncols=2, borderpad=0.1, borderaxespad=0.5)


def _steps(
    ax: Axes, frame: pd.DataFrame, column: str, color: str, scale: float, *, label: str, fill: float, width: float
) -> None:
    """Draw each sample over its time span; a pause is a gap."""
    for number, (_, part) in enumerate(frame.groupby("part", sort=True)):
        part = part.dropna(subset=[column])
        if part.empty:
            continue
        x = np.concatenate([[part["at_s"].iloc[0] - part["span_s"].iloc[0]], part["at_s"]]) / scale
        y = np.concatenate([[part[column].iloc[0]], part[column]])
        ax.fill_between(x, y, step="pre", color=color, alpha=fill, linewidth=0, zorder=2)
        name = label if label and number == 0 else None
        ax.plot(x, y, drawstyle="steps-pre", color=color, linewidth=width, label=name, zorder=3)


def _name_peak(ax: Axes, frame: pd.DataFrame, panel: _Panel, scale: float) -> None:
    place = int(np.nanargmax(frame[panel.column].astype(float)))
    x, y = float(frame["at_s"].iloc[place]) / scale, float(frame[panel.column].iloc[place])
    late = x > 0.8 * float(frame["at_s"].max()) / scale
    ax.plot([x], [y], marker="o", markersize=4, color=panel.color, zorder=4)
    look: dict[str, Any] = {"ha": "right" if late else "left", "va": "baseline", "zorder": 6}
    annotate(ax, f"peak: {short(y)} {panel.unit}", (x, y), (-5 if late else 5, 4), color=panel.color, **look)


def _shade(ax: Axes, monitor: Any, scale: float) -> None:
    for pause in monitor.pauses:
        end = float(monitor.seconds) if pause.end_s is None else pause.end_s
        ax.axvspan(pause.start_s / scale, end / scale, color=_PAUSE, linewidth=0, zorder=0)
    for mark in monitor.marks:
        ax.axvline(mark.at_s / scale, color=style.MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)


def _name_marks(strip: Axes, monitor: Any, scale: float) -> int:
    """Write the names of marks in as few levels as keep them apart; return the number of levels.

    A name that does not fit is left out; its line is drawn anyway.
    """
    strip.set_axis_off()
    strip.set_ylim(0, 1)
    figure_of(strip).draw_without_rendering()
    levels: list[list[float]] = [[] for _ in range(_LEVELS)]
    for mark in monitor.marks:
        look: dict[str, Any] = {"fontsize": TEXT - 1, "va": "baseline"}
        note = annotate(strip, mark.name, (mark.at_s / scale, 0), (2, 0), coords=("data", "axes fraction"), **look)
        note.set_in_layout(False)
        _place_mark(strip, note, levels)
    return sum(map(bool, levels))


def _place_mark(strip: Axes, note: Any, levels: list[list[float]]) -> None:
    left, _, right, _ = map(float, boxes.of(note))
    scale = figure_of(strip).dpi / 72
    if right > strip.get_window_extent().x1:  # at the right edge, left of its line
        note.set_ha("right")
        note.set_position((-2, 0))
        left, right = left - (right - left) - 4 * scale, left - 4 * scale
    for level, ends in enumerate(levels):
        if not ends or left > max(ends) + 4 * scale:
            ends.append(right)
            note.set_position((note.get_position()[0], 4 + level * 72 * _LEVEL_IN))
            return
    note.remove()
