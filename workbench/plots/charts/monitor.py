"""What a run took over its time: processor, memory and GPU, with its pauses and named moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.plots.drawing import boxes
from workbench.plots.drawing.figure import TEXT, figure_of, lower, new_figure, new_stack, say, title
from workbench.present import style

OWN, ALL, GPU = "#0072B2", "#8c8c8c", "#009E73"
_PAUSE = "#f0e6d2"
_LEVELS = 3
_LEVEL_IN = 0.16  # inches of a line of names
_NEEDED = ("columns", "pauses", "marks", "seconds", "cost")


@dataclass(frozen=True)
class _Panel:
    """A figure over time: its words, the column, the colour, and whether the axis ends at 100 %."""

    words: str
    column: str
    colour: str
    unit: str
    share: bool = False


_PANELS = (
    _Panel("CPU, % of the cores that the process may use", "cpu_percent", OWN, "%", share=True),
    _Panel("memory of the process and its children, MiB", "rss_mib", OWN, "MiB"),
    _Panel("GPU in use, % of the time", "gpu_percent", GPU, "%", share=True),
    _Panel("memory held on the GPU, MiB", "gpu_memory_mib", GPU, "MiB"),
    _Panel("power of the GPU, W", "gpu_watts", GPU, "W"),
)


def monitor_data(monitor: Any) -> pd.DataFrame:
    """Return a row for each sample of a :class:`workbench.measure.Monitor`; ``part`` counts stretches without a pause.

    Raises
    ------
    ConfigError
        If it is no monitor.
    """
    if not all(hasattr(monitor, name) for name in _NEEDED):
        raise ConfigError(
            f"plot_monitor takes a workbench.measure.Monitor that has run, got {given(monitor)}. "
            "Write `with Monitor() as monitor: ...`, then plot_monitor(monitor)."
        )
    frame = pd.DataFrame(monitor.columns())
    starts = [pause.start_s for pause in monitor.pauses]
    frame["part"] = np.searchsorted(starts, frame["at_s"] - frame["span_s"] / 2) if len(frame) else []
    return frame


def plot_monitor(monitor: Any, *, words: str = "What the run took") -> Figure:
    """Draw processor and memory, and the GPU where there is one, over the time of the run.

    Shaded times are pauses, in which something was timed and nothing sampled; dotted lines are marks.

    Parameters
    ----------
    monitor
        A :class:`workbench.measure.Monitor`, running or stopped.
    words
        The title.

    Examples
    --------
    >>> plot_monitor(monitor)  # doctest: +SKIP
    """
    frame = monitor_data(monitor)
    if frame.empty:
        (target,) = new_figure(7.0, 2.6)[1]
        say(target, "Nothing was sampled: the run was shorter than the time between two samples.")
        return figure_of(target)
    panels = [panel for panel in _PANELS if frame[panel.column].notna().any()]
    scale, unit = _time_unit(float(monitor.seconds))
    named = bool(monitor.marks)
    heights = [_LEVELS * _LEVEL_IN] * named + [1.35] * len(panels)
    figure, axes = new_stack(9.0, heights)
    strip, rest = (axes[0], axes[1:]) if named else (None, axes)
    for ax, panel in zip(rest, panels, strict=True):
        _draw(ax, frame, panel, scale)
        _shade(ax, monitor, scale)
    rest[-1].set_xlabel(f"time since the monitor was started, {unit}", fontsize=TEXT + 0.5, color=style.INK)
    rest[-1].set_xlim(0, float(monitor.seconds) / scale)
    _head(strip or rest[0], monitor, words, _sub(rest[0], first=strip is None))
    if strip is not None:
        lower(strip, heights, _name_marks(strip, monitor, scale) * _LEVEL_IN)
    return figure


def _time_unit(seconds: float) -> tuple[float, str]:
    return (1.0, "s") if seconds < 300 else (60.0, "min") if seconds < 3 * 3600 else (3600.0, "h")


def _draw(ax: Axes, frame: pd.DataFrame, panel: _Panel, scale: float) -> None:
    if panel.column == "cpu_percent" and frame["machine_percent"].notna().any():
        _steps(ax, frame, "machine_percent", ALL, scale, label="everything on these cores", fill=0.22, width=0.8)
    label = "the process and its children" if panel.column == "cpu_percent" else None
    _steps(ax, frame, panel.column, panel.colour, scale, label=label, fill=0.16, width=1.4)
    top = frame[panel.column].max()
    ax.set_ylim(0, 105 if panel.share else max(1.25 * top, 1e-9))
    if panel.share:
        ax.set_yticks([0, 50, 100])
    else:
        _name_peak(ax, frame, panel, scale)
    ax.annotate(
        panel.words,
        (0, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=TEXT,
        color=style.INK,
    )
    if label is not None:
        ax.legend(
            frameon=False, fontsize=TEXT - 0.5, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.97), borderpad=0.1
        )


def _steps(
    ax: Axes,
    frame: pd.DataFrame,
    column: str,
    colour: str,
    scale: float,
    *,
    label: str | None,
    fill: float,
    width: float,
) -> None:
    """Draw each sample over the time that it stands for; a pause is a gap."""
    for number, (_, part) in enumerate(frame.groupby("part", sort=True)):
        known = part.dropna(subset=[column])
        if known.empty:
            continue
        x = np.concatenate([[known["at_s"].iloc[0] - known["span_s"].iloc[0]], known["at_s"]]) / scale
        y = np.concatenate([[known[column].iloc[0]], known[column]])
        named = label if number == 0 else None
        ax.fill_between(x, y, step="pre", color=colour, alpha=fill, linewidth=0, zorder=2)
        ax.plot(x, y, drawstyle="steps-pre", color=colour, linewidth=width, label=named, zorder=3)


def _name_peak(ax: Axes, frame: pd.DataFrame, panel: _Panel, scale: float) -> None:
    place = int(np.nanargmax(frame[panel.column].astype(float)))
    x, y = float(frame["at_s"].iloc[place]) / scale, float(frame[panel.column].iloc[place])
    late = x > 0.8 * float(frame["at_s"].max()) / scale
    ax.plot([x], [y], marker="o", markersize=4, color=panel.colour, zorder=4)
    ax.annotate(
        f"most: {y:,.0f} {panel.unit}" if y >= 100 else f"most: {y:.3g} {panel.unit}",
        (x, y),
        (-5 if late else 5, 4),
        textcoords="offset points",
        ha="right" if late else "left",
        fontsize=TEXT - 0.5,
        color=panel.colour,
        zorder=6,
    )


def _shade(ax: Axes, monitor: Any, scale: float) -> None:
    for pause in monitor.pauses:
        end = float(monitor.seconds) if pause.end_s is None else pause.end_s
        ax.axvspan(pause.start_s / scale, end / scale, color=_PAUSE, linewidth=0, zorder=0)
    for mark in monitor.marks:
        ax.axvline(mark.at_s / scale, color=style.MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)


def _sub(ax: Axes, *, first: bool) -> float:
    """Return how many points a title must stand above the words of the first panel."""
    return TEXT + 8.0 if first else 0.0


def _head(ax: Axes, monitor: Any, words: str, above: float) -> None:
    paused = " Shaded: paused, while something was timed." if monitor.pauses else ""
    title(ax, words, f"{str(monitor.cost)[0].upper()}{str(monitor.cost)[1:]}.{paused}")
    if above:
        ax.set_title(ax.get_title(loc="left"), loc="left", fontsize=TEXT, color=style.MUTED, pad=above + 6)


def _name_marks(strip: Axes, monitor: Any, scale: float) -> int:
    """Write the names of marks above the panels so that none covers another; return how many levels that takes.

    What finds no room is left out; its line is there.
    """
    strip.set_axis_off()
    strip.set_ylim(0, 1)
    figure_of(strip).draw_without_rendering()
    placed: list[list[float]] = [[] for _ in range(_LEVELS)]
    for mark in monitor.marks:
        note = strip.annotate(
            mark.name,
            (mark.at_s / scale, 0),
            (2, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=TEXT - 1,
            color=style.INK,
            annotation_clip=False,
        )
        note.set_in_layout(False)
        _level(strip, note, placed)
    return sum(bool(ends) for ends in placed)


def _level(strip: Axes, note: Any, placed: Sequence[list[float]]) -> None:
    box, inside = boxes.of(note), strip.get_window_extent()
    left, right = float(box[0]), float(box[2])
    scale = figure_of(strip).dpi / 72
    if right > inside.x1:  # at the right edge the words stand left of their line
        note.set_ha("right")
        note.set_position((-2, 0))
        left, right = left - (right - left) - 4 * scale, left - 4 * scale
    for level, ends in enumerate(placed):
        if not ends or left > max(ends) + 4 * scale:
            ends.append(right)
            note.set_position((note.get_position()[0], 4 + level * 72 * _LEVEL_IN))
            return
    note.remove()
