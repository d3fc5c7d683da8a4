"""The roofline: what a machine allows at each number of operations per byte, and how near models come to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.measure.rooflines.peaks import MachinePeaks
from workbench.measure.rooflines.roofline import RooflinePoint
from workbench.plots.drawing.edge_labels import apart
from workbench.plots.drawing.figure import TEXT, axes_or_new, figure_of, plain_log, plural, say, title
from workbench.plots.drawing.labels import Label, Obstacles, place_labels
from workbench.present import style

COLOURS = {"float32": "#222222", "bfloat16": "#0072B2", "float16": "#009E73", "int8": "#CC79A7"}
MARKERS = {"float32": "o", "bfloat16": "s", "float16": "D", "int8": "P"}
"""The colour and mark of a precision."""
_OTHER = "#7F7F7F"
_NEAR = 26  # pixels between marks that share a label


def roofline_data(points: Sequence[RooflinePoint]) -> pd.DataFrame:
    """Return a row for each point, with its columns.

    Raises
    ------
    ConfigError
        If they are not what :func:`workbench.roofline` returns.
    """
    fine = isinstance(points, list | tuple) and all(isinstance(point, RooflinePoint) for point in points)
    if not fine:
        raise ConfigError(f"plot_roofline takes what wb.roofline(...) returns, got {given(points)}.")
    columns = list(RooflinePoint.__dataclass_fields__)
    return pd.DataFrame([[getattr(point, name) for name in columns] for point in points], columns=columns)


def plot_roofline(points: Sequence[RooflinePoint], peaks: MachinePeaks, *, ax: Axes | None = None) -> Figure:
    """Draw the roofs of every precision on log scales, and each point below with its share of the roof.

    A line leads from a point to its roof: the longer, the more is lost to something else than arithmetic and memory. A
    variant that was not run stands on its roof, hollow.

    Examples
    --------
    >>> plot_roofline(wb.roofline(profiles, peaks), peaks)  # doctest: +SKIP
    """
    frame = roofline_data(points)
    if not isinstance(peaks, MachinePeaks):
        raise ConfigError(f"plot_roofline: peaks must be what wb.measure_peaks() returns, got {given(peaks)}.")
    _, target = axes_or_new(ax, 8.8, 5.2)
    if frame.empty:
        say(target, "No point to draw: give at least one variant or profile.")
        return figure_of(target)
    left, right = _limits(target, frame, peaks)
    target.set_xlabel("Arithmetic intensity, upper bound (flop/byte)", fontsize=TEXT + 0.5, color=style.INK)
    target.set_ylabel("Performance (GFLOP/s) ↑", fontsize=TEXT + 0.5, color=style.INK)
    obstacles = Obstacles()
    _roofs(target, peaks, left, right, obstacles)
    labels = [_point(target, row, obstacles) for row in frame.to_dict("records")]
    threads = plural(peaks.threads, "thread")
    where = peaks.machine.split(",")[0]
    shares = "; %: of the roof above" if frame["share"].notna().any() else ""
    detail = f"{where}, {threads}; slope: copying memory at {peaks.copy_gb_s:.1f} GB/s{shares}"
    if any(note.startswith("disturbed") for note in peaks.notes):
        detail += "; other work disturbed the peaks"
    title(target, "How near to what this machine allows", detail)
    _name_roofs(target, peaks, right)
    figure_of(target).draw_without_rendering()  # settles the layout
    place_labels(target, _joined(target, labels), obstacles)
    return figure_of(target)


def _limits(ax: Axes, frame: pd.DataFrame, peaks: MachinePeaks) -> tuple[float, float]:
    """Set the scales so that all points and every ridge are inside."""
    ridges = [peak.gflops / peaks.copy_gb_s for peak in peaks.peaks]
    intensities = [*frame["intensity"], *ridges]
    left, right = min(intensities) / 2.2, max(intensities) * 5
    tops = [peak.gflops for peak in peaks.peaks]
    heights = [*frame["gflops"].dropna(), *frame["roof_gflops"].dropna(), *tops]
    low, high = min(heights) / 2.0, max(heights) * 2.6
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)
    plain_log(ax.xaxis, left, right)
    plain_log(ax.yaxis, low, high)
    return left, right


def _roofs(ax: Axes, peaks: MachinePeaks, left: float, right: float, obstacles: Obstacles) -> None:
    """Draw the slope of memory, which all precisions share, and the flat roof of each."""
    top = max(peaks.peaks, key=lambda peak: peak.gflops)
    ridge = top.gflops / peaks.copy_gb_s
    ax.plot([left, ridge], [left * peaks.copy_gb_s, top.gflops], color=style.MUTED, linewidth=1.4, zorder=2)
    obstacles.lines = [(left, left * peaks.copy_gb_s), (ridge, top.gflops), (right, top.gflops)]
    for peak in peaks.peaks:
        colour = COLOURS.get(peak.precision, _OTHER)
        ax.plot([peak.gflops / peaks.copy_gb_s, right], [peak.gflops] * 2, color=colour, linewidth=1.6, zorder=2)
        obstacles.bars.append((peak.gflops / peaks.copy_gb_s, peak.gflops / 1.03, right, peak.gflops * 1.03))


def _name_roofs(ax: Axes, peaks: MachinePeaks, right: float) -> None:
    """Write what each roof is behind its right end, moved up and down until none touches another."""
    figure = figure_of(ax)
    known = sorted(peaks.peaks, key=lambda peak: peak.gflops)
    notes = [
        ax.annotate(
            f"{peak.precision}\n{peak.gflops:,.0f} GFLOP/s\n{style.backend(peak.library).word}",
            (right, peak.gflops),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=TEXT - 0.5,
            color=COLOURS.get(peak.precision, _OTHER),
            linespacing=1.1,
            annotation_clip=False,
        )
        for peak in known
    ]
    figure.draw_without_rendering()
    scale, inside = figure.dpi / 72, ax.get_window_extent()
    points = [float(ax.transData.transform((right, peak.gflops))[1]) for peak in known]
    heights = [note.get_window_extent().height + 4 for note in notes]
    for note, point, centre in zip(notes, points, apart(points, heights, inside.y0, inside.y1), strict=True):
        note.set_position((6, (centre - point) / scale))


def _point(ax: Axes, row: Mapping[Any, Any], obstacles: Obstacles) -> Label:
    colour, mark = COLOURS.get(row["precision"], _OTHER), MARKERS.get(row["precision"], "o")
    x, roof, ran = row["intensity"], row["roof_gflops"], pd.notna(row["gflops"])
    y = row["gflops"] if ran else roof
    if ran and pd.notna(roof) and roof > y:
        ax.plot([x, x], [y, roof], color=colour, linewidth=0.9, linestyle=(0, (1, 2)), zorder=3)
        obstacles.bars.append((x / 1.02, y, x * 1.02, roof))
    face = colour if ran else "white"
    ax.plot([x], [y], marker=mark, markersize=8, color=colour, markerfacecolor=face, linestyle="none", zorder=5)
    obstacles.rings.append((x, y))
    said = f"{row['name']}, {100 * row['share']:.0f} %" if pd.notna(row["share"]) else row["name"]
    return Label(said if ran else f"{row['name']} (not run)", x, y, colour=colour, essential=True)


def _joined(ax: Axes, labels: list[Label]) -> list[Label]:
    """Write the words of points that lie on each other into one label, line by line."""
    groups: list[list[Label]] = []
    for label in sorted(labels, key=lambda one: -one.y):
        place = ax.transData.transform((label.x, label.y))
        for group in groups:
            last = group[-1]
            if last.colour == label.colour and np.hypot(*(ax.transData.transform((last.x, last.y)) - place)) < _NEAR:
                group.append(label)
                break
        else:
            groups.append([label])
    middle = [group[len(group) // 2] for group in groups]
    words = ["\n".join(label.words for label in group) for group in groups]
    return [replace(label, words=said) for label, said in zip(middle, words, strict=True)]
