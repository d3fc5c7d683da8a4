"""Signal to error behind every layer, as bars: where a variant parts from its reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.errors import ConfigError
from workbench.plots.drawing.figure import TEXT, axes_or_new, name_rows, plain, plural, say, title
from workbench.present import style

_ROW, _MOST_NAMED = 0.22, 80


def layer_sqnr_data(report: Any) -> pd.DataFrame:
    """Return a row per layer in the order of computation: layer, op, sqnr_db, and whether it is among the worst.

    The worst are the layers within 3 dB (a factor of two in energy) of the lowest ratio.

    Raises
    ------
    ConfigError
        If ``report`` is not what :func:`workbench.debug_accuracy` returns.
    """
    if not hasattr(report, "layer_frame"):
        raise ConfigError(f"This chart takes what wb.debug_accuracy(...) returns, got {type(report).__name__}.")
    frame: pd.DataFrame = report.layer_frame().astype({"sqnr_db": float})
    finite = frame["sqnr_db"][np.isfinite(frame["sqnr_db"])]
    return frame.assign(worst=frame["sqnr_db"] <= finite.min() + 3 if len(finite) else False)


def plot_layer_sqnr(report: Any, *, ax: Axes | None = None) -> Figure:
    """Draw a bar per layer, first layer on top: the shorter, the more of what arrives there is error.

    Examples
    --------
    >>> plot_layer_sqnr(wb.debug_accuracy(task, variant))  # doctest: +SKIP
    """
    frame = layer_sqnr_data(report)
    figure, ax = axes_or_new(ax, 7.6, min(24.0, 1.5 + _ROW * max(4, len(frame))))
    if frame.empty:
        say(ax, " ".join(report.notes) or "No layer could be compared.")
        return figure
    values = frame["sqnr_db"].to_numpy(dtype=float)
    highest = float(values[np.isfinite(values)].max(initial=1.0))
    lengths = np.where(np.isfinite(values), values, highest)
    colours = [style.BAD if worst else style.TECHNIQUES["quantize"].colour for worst in frame["worst"]]
    ax.barh(range(len(frame)), lengths, height=0.7, color=colours, edgecolor=style.INK, linewidth=0.4, zorder=3)
    if len(frame) <= _MOST_NAMED:
        for place, value in enumerate(values):
            words = f"{value:.1f}" if np.isfinite(value) else "exact"
            at = (max(0.0, float(lengths[place])), place)
            ax.annotate(words, at, (4, 0), textcoords="offset points", va="center", fontsize=TEXT - 1.5)
    step = 1 + len(frame) // _MOST_NAMED
    ax.set_yticks(range(0, len(frame), step), [plain(name) for name in frame["layer"][::step]], fontsize=TEXT - 0.5)
    ax.set_ylim(len(frame) - 0.4, -0.6)
    ax.set_xlim(min(0.0, float(lengths.min()) * 1.1), highest * 1.12)
    name_rows(ax)
    ax.set_xlabel("SQNR (dB) ↑; 10 dB less: ten times the error energy", fontsize=TEXT)
    lost = f", {plural(len(report.unaligned), 'layer')} not compared" if report.unaligned else ""
    words = f"{report.task} on {report.backend}: {report.candidate} against {report.reference}; worst in orange{lost}"
    title(ax, "What arrives behind each layer", words)
    return figure
