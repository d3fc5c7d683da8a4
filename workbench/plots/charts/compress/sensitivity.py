"""Sensitivity as a heat map: layers by settings, the loss as color."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import ScaledTranslation

from workbench.core.format.numbers import plural
from workbench.plots.drawing.figure import TEXT, axes_or_new, describe, empty_chart, escaped, figure_of, legend
from workbench.plots.drawing.frames import require
from workbench.present import style

_ROW, _COLUMN, _MOST_NAMED = 0.24, 0.72, 60
_LEAST_DROP = 0.005  # half a point of accuracy: less is mostly noise
_LEAST_DB = 3.0
_BELOW_AXIS = 0.5  # inches: below the settings and their name
_PALE_TO_BAD = LinearSegmentedColormap.from_list("loss", list(style.HEAT))
_ACROSS = {
    "prune": "Channels removed (share of the layer)",
    "factorize": "Rank kept (share of the full rank)",
    "quantize": "Bits",
}


def sensitivity_data(table: Any) -> pd.DataFrame:
    """Return the cells of the heat map: layers as rows in the model's order, settings as columns.

    A value is the quality drop in the metric's units, or the SQNR in dB for a table of ``sqnr_db``; NaN if the setting
    is not possible for the layer.
    """
    fits = hasattr(table, "frame") and hasattr(table, "measure")
    require(fits, "plot_sensitivity", "the result of wb.sensitivity(...)", table)
    frame = table.frame()
    if frame.empty:
        return pd.DataFrame()
    column = "quality_drop" if table.measure == "quality" else "sqnr_db"
    wide: pd.DataFrame = frame.pivot(index="layer", columns="setting", values=column)
    ordered: pd.DataFrame = wide.reindex(list(dict.fromkeys(frame["layer"])))
    return ordered


def plot_sensitivity(table: Any, *, ax: Axes | None = None) -> Figure:
    """Draw layers on y, settings on x, and the loss as color, with its value if it fits.

    Darker is worse; the scale spans at least half a point of quality, or 3 dB. Hatched cells are not possible:
    ``note`` in ``table.frame()`` holds the reason.
    """
    wide = sensitivity_data(table)
    rows, columns = wide.shape if wide.size else (1, 1)
    width = 2.6 + max(3.2, _COLUMN * columns) + 0.07 * max((len(str(name)) for name in wide.index), default=0)
    if not wide.size:
        return empty_chart(ax, f"No layer that {table.technique} can change was found.")
    target = axes_or_new(ax, min(14.0, width), min(24.0, 1.5 + _ROW * rows))
    return _draw(target, table, wide)


def _draw(ax: Axes, table: Any, wide: pd.DataFrame) -> Figure:
    values = wide.to_numpy(dtype=float)
    in_quality = table.measure == "quality"
    # a chance gain over the float model is as pale as no loss
    hurts = np.clip(values, 0, None) if in_quality else -np.clip(values, None, _finite(values).max(initial=0.0))
    shade = Normalize(*_scale(_finite(hurts), table))
    ax.imshow(np.ma.masked_invalid(hurts), cmap=_PALE_TO_BAD, norm=shade, aspect="auto", interpolation="nearest")
    for row, column in np.argwhere(np.isnan(values)):
        ax.add_patch(_hatched(xy=(column - 0.5, row - 0.5), width=1, height=1))
    _name_axes(ax, wide)
    if len(wide) <= _MOST_NAMED:
        _write(ax, values, hurts, shade, in_quality)
    _color_bar(ax, shade, in_quality)
    if np.isnan(values).any():
        below = ax.transAxes + ScaledTranslation(0, -_BELOW_AXIS, figure_of(ax).dpi_scale_trans)
        words = "not possible at this setting (why: note in table.frame())"
        sample = _hatched(xy=(0, 0), width=1, height=1, label=words)
        legend(ax, "upper left", (0.0, 0.0), [sample], fontsize=TEXT - 1, bbox_transform=below, borderpad=0.0)
    loss = "Quality drop" if in_quality else "SQNR of the outputs"
    split = f"validation quality {table.base:.4f} before" if in_quality else "calibration split"
    detail = f"{table.task}, {table.technique}: {plural(len(wide), 'layer')}, {split}"
    return describe(ax, f"{loss}, one layer at a time", detail, x=_ACROSS.get(table.technique, "Setting"))


def _scale(losses: Any, table: Any) -> tuple[float, float]:
    """Return the palest and the darkest loss, far enough apart that noise stays pale."""
    if table.measure == "quality":
        return 0.0, max(float(losses.max(initial=0.0)), _LEAST_DROP * max(1.0, abs(float(table.base))))
    low = float(losses.min()) if losses.size else 0.0
    return low, max(float(losses.max()) if losses.size else 0.0, low + _LEAST_DB)


def _name_axes(ax: Axes, wide: pd.DataFrame) -> None:
    ax.grid(visible=False)
    step = 1 + len(wide) // _MOST_NAMED
    ax.set_yticks(range(0, len(wide), step), [escaped(name) for name in wide.index[::step]], fontsize=TEXT - 0.5)
    ax.set_xticks(range(wide.shape[1]), [f"{setting:g}" for setting in wide.columns])
    ax.tick_params(length=0)


def _write(ax: Axes, values: Any, hurts: Any, shade: Normalize, in_quality: bool) -> None:
    for row, column in np.argwhere(~np.isnan(values)):
        value, dark = float(values[row, column]), float(shade(hurts[row, column])) > 0.55
        decibels = f"{value:.1f}" if np.isfinite(value) else "exact"
        text = (f"{value:+.3f}" if abs(value) >= 5e-4 else "0") if in_quality else decibels
        color = "white" if dark else style.INK
        ax.text(column, row, text, ha="center", va="center", fontsize=TEXT - 1.5, color=color)


def _color_bar(ax: Axes, shade: Normalize, in_quality: bool) -> None:
    bar = figure_of(ax).colorbar(ScalarMappable(shade, _PALE_TO_BAD), ax=ax, fraction=0.05, pad=0.02, aspect=30)
    bar.set_label("Quality drop ↓" if in_quality else "SQNR (dB) ↑", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT - 1)
    bar.outline.set_visible(False)
    if not in_quality:
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{-value:g}")
        bar.ax.invert_yaxis()


def _finite(values: Any) -> Any:
    return values[np.isfinite(values)]


def _hatched(**place: Any) -> Any:
    return Rectangle(**place, facecolor="white", edgecolor=style.FAINT, hatch="////", linewidth=0)
