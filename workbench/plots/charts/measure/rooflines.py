"""Roofline: attainable performance by arithmetic intensity, and the performance of models."""

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
from workbench.core.format.numbers import plural
from workbench.measure.rooflines.peaks import MachinePeaks
from workbench.measure.rooflines.roofline import RooflinePoint
from workbench.plots.drawing.figure import annotate, axes_or_new, describe, empty_chart, figure_of, plain_log
from workbench.plots.drawing.frames import attribute_frame, require
from workbench.plots.drawing.labels import Label, Obstacles, apart, place_labels
from workbench.present import style

COLORS = {"float32": style.INK, "bfloat16": style.BLUE, "float16": style.GREEN, "int8": style.PURPLE}
MARKERS = {"float32": "o", "bfloat16": "s", "float16": "D", "int8": "P"}
_OTHER = style.GRAY
_NEAR = 26  # pixels between marks that share a label


def roofline_data(points: Sequence[RooflinePoint]) -> pd.DataFrame:
    """Return a row for each point of :func:`workbench.roofline`."""
    fits = isinstance(points, list | tuple) and all(isinstance(point, RooflinePoint) for point in points)
    require(fits, "plot_roofline", "the result of wb.roofline(...)", points)
    return attribute_frame(points, {name: name for name in RooflinePoint.__dataclass_fields__})


def plot_roofline(points: Sequence[RooflinePoint], peaks: MachinePeaks, *, ax: Axes | None = None) -> Figure:
    """Draw the roof of each precision on log scales, and each point with its share of the roof.

    The length of the line from a point to its roof is the loss to anything but arithmetic and memory. A variant that
    was not run is a hollow mark on its roof.
    """
    frame = roofline_data(points)
    if not isinstance(peaks, MachinePeaks):
        raise ConfigError(f"plot_roofline: peaks must be the result of wb.measure_peaks(), got {given(peaks)}.")
    if frame.empty:
        return empty_chart(ax, "No point to draw: give at least one variant or profile.")
    target = axes_or_new(ax, 8.8, 5.2)
    left, right = _limits(target, frame, peaks)
    obstacles = Obstacles()
    _roofs(target, peaks, left, right, obstacles)
    labels = [_point(target, row, obstacles) for row in frame.to_dict("records")]
    machine = f"{peaks.machine.split(',')[0]}, {plural(peaks.threads, 'thread')}"
    shares = "; %: share of the roof" if frame["share"].notna().any() else ""
    detail = f"{machine}; slope: memory copy at {peaks.copy_gb_s:.1f} GB/s{shares}"
    if any(note.startswith("disturbed") for note in peaks.notes):
        detail += "; peaks disturbed by other load"
    labels_of_axes = {"x": "Arithmetic intensity, upper bound (flop/byte)", "y": "Performance (GFLOP/s) ↑"}
    figure = describe(target, "Roofline", detail, **labels_of_axes)
    _name_roofs(target, peaks, right)
    figure.draw_without_rendering()  # settles the layout
    place_labels(target, _joined(target, labels), obstacles)
    return figure


def _limits(ax: Axes, frame: pd.DataFrame, peaks: MachinePeaks) -> tuple[float, float]:
    """Set log scales that contain all points and ridges."""
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
    """Draw the memory slope, which all precisions share, and the flat roof of each."""
    top = max(peaks.peaks, key=lambda peak: peak.gflops)
    ridge = top.gflops / peaks.copy_gb_s
    ax.plot([left, ridge], [left * peaks.copy_gb_s, top.gflops], color=style.MUTED, linewidth=1.4, zorder=2)
    obstacles.lines = [(left, left * peaks.copy_gb_s), (ridge, top.gflops), (right, top.gflops)]
    for peak in peaks.peaks:
        color = COLORS.get(peak.precision, _OTHER)
        ax.plot([peak.gflops / peaks.copy_gb_s, right], [peak.gflops] * 2, color=color, linewidth=1.6, zorder=2)
        obstacles.bars.append((peak.gflops / peaks.copy_gb_s, peak.gflops / 1.03, right, peak.gflops * 1.03))


def _name_roofs(ax: Axes, peaks: MachinePeaks, right: float) -> None:
    """Name each roof at its right end, moved up and down until no two names overlap."""
    figure = figure_of(ax)
    sorted_peaks = sorted(peaks.peaks, key=lambda peak: peak.gflops)
    notes = []
    for peak in sorted_peaks:
        text = f"{peak.precision}\n{peak.gflops:,.0f} GFLOP/s\n{style.backend(peak.library).word}"
        color = COLORS.get(peak.precision, _OTHER)
        notes.append(annotate(ax, text, (right, peak.gflops), (6, 0), color=color, linespacing=1.1))
    figure.draw_without_rendering()
    scale, inside = figure.dpi / 72, ax.get_window_extent()
    points = [float(ax.transData.transform((right, peak.gflops))[1]) for peak in sorted_peaks]
    heights = [note.get_window_extent().height + 4 for note in notes]
    for note, point, center in zip(notes, points, apart(points, heights, inside.y0, inside.y1), strict=True):
        note.set_position((6, (center - point) / scale))


def _point(ax: Axes, row: Mapping[Any, Any], obstacles: Obstacles) -> Label:
    color, mark = COLORS.get(row["precision"], _OTHER), MARKERS.get(row["precision"], "o")
    x, roof, ran = row["intensity"], row["roof_gflops"], pd.notna(row["gflops"])
    y = row["gflops"] if ran else roof
    if ran and pd.notna(roof) and roof > y:
        ax.plot([x, x], [y, roof], color=color, linewidth=0.9, linestyle=(0, (1, 2)), zorder=3)
        obstacles.bars.append((x / 1.02, y, x * 1.02, roof))
    face = color if ran else "white"
    ax.plot([x], [y], marker=mark, markersize=8, color=color, markerfacecolor=face, linestyle="none", zorder=5)
    obstacles.rings.append((x, y))
    text = f"{row['name']}, {100 * row['share']:.0f} %" if pd.notna(row["share"]) else row["name"]
    return Label(text if ran else f"{row['name']} (not run)", x, y, color=color, essential=True)


def _joined(ax: Axes, labels: list[Label]) -> list[Label]:
    """Join the labels of points that overlap into one, line by line."""
    groups: list[list[Label]] = []
    for label in sorted(labels, key=lambda one: -one.y):
        place = ax.transData.transform((label.x, label.y))
        for group in groups:
            last = group[-1]
            if last.color == label.color and np.hypot(*(ax.transData.transform((last.x, last.y)) - place)) < _NEAR:
                group.append(label)
                break
        else:
            groups.append([label])
    middle = [group[len(group) // 2] for group in groups]
    texts = ["\n".join(label.text for label in group) for group in groups]
    return [replace(label, text=text) for label, text in zip(middle, texts, strict=True)]
