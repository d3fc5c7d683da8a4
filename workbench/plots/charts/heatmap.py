"""Sensitivity as a heat map: layers down, settings across, what each costs as colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from workbench.core.errors import ConfigError
from workbench.plots.drawing.figure import TEXT, axes_or_new, plain, plural, say, title
from workbench.present import style

_ROW, _COLUMN, _MOST_NAMED = 0.24, 0.72, 60
_LEAST_DROP = 0.005  # half a point of an accuracy, or of a metric in percent: less is mostly chance
_LEAST_DB = 3.0
_BELOW_AXIS = 0.5  # inches: below the settings and their name
_PALE_TO_BAD = LinearSegmentedColormap.from_list("loss", ["#FFF8F0", "#F0B27A", style.BAD, "#6E2C00"])
_ACROSS = {
    "prune": "channels removed (share of the layer)",
    "factorize": "rank kept (share of the full rank)",
    "quantize": "bits",
}


def sensitivity_data(table: Any) -> pd.DataFrame:
    """Return the cells to draw: layers as rows in the model's order, settings as columns, the loss as values.

    The loss is the drop of quality in the metric's units, or for tables of ``sqnr_db`` that ratio in dB (less is
    worse); NaN where the setting does not exist for the layer.

    Raises
    ------
    ConfigError
        If ``table`` is not what :func:`workbench.sensitivity` returns.
    """
    if not hasattr(table, "frame") or not hasattr(table, "measure"):
        raise ConfigError(f"A heat map takes what wb.sensitivity(...) returns, got {type(table).__name__}.")
    frame = table.frame()
    if frame.empty:
        return pd.DataFrame()
    column = "quality_drop" if table.measure == "quality" else "sqnr_db"
    wide: pd.DataFrame = frame.pivot(index="layer", columns="setting", values=column)
    ordered: pd.DataFrame = wide.reindex(list(dict.fromkeys(frame["layer"])))
    return ordered


def plot_sensitivity(table: Any, *, ax: Axes | None = None) -> Figure:
    """Draw layers on y, settings on x, and the loss as colour with its value where it fits.

    Dark is what hurts; the scale spans at least half a point of quality, or 3 dB. Hatched cells do not exist: the
    note in ``table.frame()`` says why.

    Examples
    --------
    >>> plot_sensitivity(wb.sensitivity(task, "prune"))  # doctest: +SKIP
    """
    wide = sensitivity_data(table)
    rows, columns = wide.shape if wide.size else (1, 1)
    width = 2.6 + max(3.2, _COLUMN * columns) + 0.07 * max((len(str(name)) for name in wide.index), default=0)
    figure, ax = axes_or_new(ax, min(14.0, width), min(24.0, 1.5 + _ROW * rows))
    if not wide.size:
        say(ax, f"No layer that {table.technique} can change was found, so there is nothing to compare.")
        return figure
    _draw(figure, ax, table, wide)
    return figure


def _draw(figure: Figure, ax: Axes, table: Any, wide: pd.DataFrame) -> None:
    values = wide.to_numpy(dtype=float)
    in_quality = table.measure == "quality"
    # what is better than the float model by chance is as pale as what loses nothing
    hurts = np.clip(values, 0, None) if in_quality else -np.clip(values, None, _finite(values).max(initial=0.0))
    shade = Normalize(*_scale(_finite(hurts), table))
    ax.imshow(np.ma.masked_invalid(hurts), cmap=_PALE_TO_BAD, norm=shade, aspect="auto", interpolation="nearest")
    for row, column in np.argwhere(np.isnan(values)):
        place = {"xy": (column - 0.5, row - 0.5), "width": 1, "height": 1}
        ax.add_patch(_hatched(**place))
    _name_axes(ax, table, wide)
    if len(wide) <= _MOST_NAMED:
        _write(ax, values, hurts, shade, in_quality)
    _key(figure, ax, shade, in_quality)
    if np.isnan(values).any():
        _explain_hatching(figure, ax)
    what = "drop of quality" if in_quality else "signal to error of the outputs"
    title(ax, f"{what.capitalize()}, one layer at a time", f"{table.task}, {table.technique}: {_detail(table, wide)}")


def _scale(known: Any, table: Any) -> tuple[float, float]:
    """Return the losses that are palest and darkest: far enough apart that noise does not look like a signal."""
    if table.measure == "quality":
        return 0.0, max(float(known.max(initial=0.0)), _LEAST_DROP * max(1.0, abs(float(table.base))))
    low = float(known.min()) if known.size else 0.0
    return low, max(float(known.max()) if known.size else 0.0, low + _LEAST_DB)


def _explain_hatching(figure: Figure, ax: Axes) -> None:
    """Say below the chart what hatched cells are."""
    below = ScaledTranslation(0, -_BELOW_AXIS, figure.dpi_scale_trans)
    ax.legend(
        [_hatched(xy=(0, 0), width=1, height=1)],
        ["not possible at this setting (why: note in table.frame())"],
        frameon=False,
        fontsize=TEXT - 1,
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0),
        bbox_transform=ax.transAxes + below,
        borderaxespad=0.0,
        borderpad=0.0,
    )


def _detail(table: Any, wide: pd.DataFrame) -> str:
    where = f"validation quality {table.base:.4f} before" if table.measure == "quality" else "calibration split"
    return f"{plural(len(wide), 'layer')}, {where}"


def _name_axes(ax: Axes, table: Any, wide: pd.DataFrame) -> None:
    ax.grid(visible=False)
    step = 1 + len(wide) // _MOST_NAMED
    ax.set_yticks(range(0, len(wide), step), [plain(name) for name in wide.index[::step]], fontsize=TEXT - 0.5)
    ax.set_xticks(range(wide.shape[1]), [f"{setting:g}" for setting in wide.columns])
    ax.tick_params(length=0)
    ax.set_xlabel(_ACROSS.get(table.technique, "setting"), fontsize=TEXT)


def _write(ax: Axes, values: Any, hurts: Any, shade: Normalize, in_quality: bool) -> None:
    for row, column in np.argwhere(~np.isnan(values)):
        value, dark = float(values[row, column]), float(shade(hurts[row, column])) > 0.55
        words = (f"{value:+.3f}" if abs(value) >= 5e-4 else "0") if in_quality else _decibels(value)
        colour = "white" if dark else style.INK
        ax.text(column, row, words, ha="center", va="center", fontsize=TEXT - 1.5, color=colour)


def _decibels(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "exact"


def _key(figure: Figure, ax: Axes, shade: Normalize, in_quality: bool) -> None:
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(shade, _PALE_TO_BAD), ax=ax, fraction=0.05, pad=0.02, aspect=30)
    bar.set_label("drop (metric's units)" if in_quality else "SQNR (dB), dark is low", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT - 1)
    bar.outline.set_visible(False)
    if not in_quality:
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{-value:g}")
        bar.ax.invert_yaxis()


def _finite(values: Any) -> Any:
    return values[np.isfinite(values)]


def _hatched(**place: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(**place, facecolor="white", edgecolor=style.FAINT, hatch="////", linewidth=0)
