"""Figures without pyplot: made on the Agg canvas, so that they may be drawn in any thread."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from workbench.present.style import FAINT, INK, MUTED

DPI = 110
TEXT = 9.0
LOG_FROM = 4.0  # a larger ratio between the ends of an axis is drawn on a log scale


def new_figure(width: float, height: float, *, columns: int = 1, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``width`` x ``height`` inches with a row of ``columns`` axes, laid out by constraint."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, sharey=share_y, squeeze=False)[0]
    for ax in axes:
        dress(ax)
    return figure, list(axes)


def new_stack(width: float, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Return a figure of axes one below the other, of ``heights`` inches, that share the axis below them."""
    figure = Figure(figsize=(width, sum(heights) + 0.3 * len(heights) + 0.9), dpi=DPI, layout="constrained")
    figure.set_facecolor("white")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=list(heights))[:, 0])
    for ax in axes:
        dress(ax)
    return figure, axes


def lower(ax: Axes, heights: Sequence[float], height: float) -> None:
    """Make the uppermost axes of :func:`new_stack` lower, and the figure with it."""
    figure, spec = figure_of(ax), ax.get_subplotspec()
    if spec is None:
        raise ValueError("The axes do not stand in a stack.")
    spec.get_gridspec().set_height_ratios([height, *heights[1:]])
    figure.set_figheight(figure.get_figheight() - heights[0] + height)


def axes_or_new(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """Return where a chart is drawn: ``ax`` dressed, or a new figure of ``width`` x ``height`` inches."""
    if ax is not None:
        return figure_of(dress(ax)), ax
    figure, (new,) = new_figure(width, height)
    return figure, new


def dress(ax: Axes) -> Axes:
    """Give an axes the look that all charts share, and return it."""
    ax.set_facecolor("white")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)
    ax.tick_params(colors=INK, labelsize=TEXT, width=0.8, color=MUTED)
    ax.grid(visible=True, color=FAINT, linewidth=0.5, alpha=0.6)
    ax.set_axisbelow(True)
    return ax


def name_rows(ax: Axes, *, shown: bool | None = None) -> None:
    """Leave the names of rows alone at the axis of a chart of rows: no lines across, no ticks.

    ``shown`` says whether the names stand here; None leaves that as it is, as where axes share one.
    """
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    if shown is not None:
        ax.tick_params(axis="y", labelleft=shown)


def figure_of(ax: Axes) -> Figure:
    """Return the figure that owns ``ax``, with a canvas that can draw it."""
    figure = ax.figure.figure
    if not isinstance(figure, Figure):
        raise TypeError(f"ax must stand in a matplotlib.figure.Figure, got {type(figure).__name__}.")
    if not hasattr(figure.canvas, "get_renderer"):
        FigureCanvasAgg(figure)
    return figure


def figure_png(figure: Figure, *, dpi: float | None = None) -> bytes:
    """Return the figure as PNG bytes.

    Examples
    --------
    >>> figure_png(new_figure(2, 1)[0])[:4]
    b'\\x89PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi or figure.dpi)
    return buffer.getvalue()


def say(ax: Axes, words: str, *, width: int = 60) -> None:
    """Put a sentence in the middle of an empty chart instead of marks."""
    ax.set_axis_off()
    ax.text(
        0.5,
        0.5,
        plain("\n".join(textwrap.wrap(words, width))),
        ha="center",
        va="center",
        fontsize=11,
        color=MUTED,
        transform=ax.transAxes,
    )


def title(ax: Axes, words: str, detail: str = "") -> None:
    """Set a left-aligned title; ``detail`` stands below it in a smaller, lighter line."""
    if not detail:
        ax.set_title(plain(words), loc="left", fontsize=11.5, fontweight="bold", color=INK)
        return
    below = ax.set_title(plain(detail), loc="left", fontsize=TEXT, color=MUTED)
    # anchored to the lower line, which matplotlib itself lifts above an axis on top
    ax.annotate(
        plain(words),
        (0, 1),
        (0, 5),
        below,
        "offset points",
        fontsize=11.5,
        fontweight="bold",
        color=INK,
        annotation_clip=False,
    )


def plain(words: object) -> str:
    """Return words for a text of matplotlib that shows its dollar signs: a pair of them would mean mathematics.

    Examples
    --------
    >>> print(plain("$x$"))
    \\$x\\$
    """
    return str(words).replace("$", r"\$")


def plural(count: int, word: str) -> str:
    """Return the count with its word.

    Examples
    --------
    >>> plural(1, "recipe"), plural(3, "recipe")
    ('1 recipe', '3 recipes')
    """
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def wants_log(values: Sequence[float]) -> bool:
    """Say whether positive values spread so far that only a log axis shows them all."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return bool(known) and min(known) > 0 and max(known) / min(known) >= LOG_FROM


def nice_ticks(low: float, high: float) -> list[float]:
    """Return round ticks inside [low, high] for a log axis, as many as fit but at most nine.

    Examples
    --------
    >>> nice_ticks(0.8, 30)
    [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**e for e in range(first, last + 1) for s in steps if low <= s * 10.0**e <= high]
        if len(ticks) <= 9:
            break
    return ticks


def plain_log(axis: Any, low: float, high: float) -> None:
    """Write plain numbers at round ticks on an axis with a log scale."""
    axis.set_major_locator(FixedLocator(nice_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}" if value < 10_000 else f"{value:,.0f}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
