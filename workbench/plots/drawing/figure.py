"""Figures without pyplot: drawn on the Agg canvas, safe in any thread, and displayed by notebooks."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullFormatter, NullLocator

from workbench.present.style import FAINT, INK, MUTED

DPI = 110
TEXT = 9.0
TITLE = "title"
LOG_FROM = 4.0
"""An axis has a log scale if its ends differ by this factor or more."""


class Chart(Figure):
    """A figure that a notebook displays as PNG at twice its size in pixels, with alternative text.

    ``alt`` is the alternative text; empty: titles and axis labels.
    """

    alt = ""

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        alt = self.alt or _described(self)
        width = int(self.get_figwidth() * self.dpi)
        data = {"image/png": figure_png(self, dpi=2 * self.dpi), "text/plain": alt}
        return data, {"image/png": {"width": width, "alt": alt}}


def with_alt(figure: Figure, alt: str) -> Figure:
    """Set the alternative text of a chart and return it."""
    if isinstance(figure, Chart):
        figure.alt = alt
    return figure


def _described(figure: Figure) -> str:
    """Return titles and axis labels; the message of a chart without data."""
    parts = []
    for ax in figure.axes:
        if ax.axison:
            title = next((note.get_text() for note in ax.texts if note.get_gid() == TITLE), "")
            labels = [f"{name}: {label}" for name, label in (("x", ax.get_xlabel()), ("y", ax.get_ylabel())) if label]
            parts.append("; ".join(filter(None, [title, ax.get_title(loc="left"), *labels])))
        else:
            parts.append(" ".join(note.get_text() for note in ax.texts))
    return " | ".join(part for part in parts if part).replace("\n", " ").replace(r"\$", "$")


def new_figure(width: float, height: float, *, columns: int = 1, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``width`` x ``height`` inches with a row of ``columns`` axes."""
    figure = _chart(width, height)
    axes = figure.subplots(1, columns, sharey=share_y, squeeze=False)[0]
    return figure, [style_axes(ax) for ax in axes]


def new_stack(width: float, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with a column of axes of ``heights`` inches that share the x axis."""
    figure = _chart(width, sum(heights) + 0.3 * len(heights) + 0.9)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=list(heights))[:, 0]
    return figure, [style_axes(ax) for ax in axes]


def _chart(width: float, height: float) -> Chart:
    figure = Chart(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def axes_or_new(ax: Axes | None, width: float, height: float) -> Axes:
    """Return ``ax`` with the charts' style, or the axes of a new figure of ``width`` x ``height`` inches."""
    return style_axes(ax) if ax is not None else new_figure(width, height)[1][0]


def empty_chart(ax: Axes | None, message: str) -> Figure:
    """Return a chart that shows a message in place of data."""
    return show_message(axes_or_new(ax, 9.0, 2.6), message)


def show_message(ax: Axes, message: str, *, width: int = 60) -> Figure:
    """Show a message in the middle of an empty axes and return its figure."""
    ax.set_axis_off()
    text = escaped("\n".join(textwrap.wrap(message, width)))
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=11, color=MUTED, transform=ax.transAxes)
    return figure_of(ax)


def style_axes(ax: Axes) -> Axes:
    """Apply the charts' common style to an axes and return it."""
    ax.set_facecolor("white")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.tick_params(colors=INK, labelsize=TEXT, width=0.8, color=MUTED)
    ax.grid(visible=True, color=FAINT, linewidth=0.5, alpha=0.6)
    ax.set_axisbelow(True)
    return ax


def figure_of(ax: Axes) -> Figure:
    """Return the figure of ``ax``, with an Agg canvas if it has none."""
    figure = ax.figure.figure
    if not isinstance(figure, Figure):
        raise TypeError(f"ax must belong to a matplotlib.figure.Figure, got {type(figure).__name__}.")
    if not hasattr(figure.canvas, "get_renderer"):
        FigureCanvasAgg(figure)
    return figure


def figure_png(figure: Figure, *, dpi: float | None = None) -> bytes:
    """Return the figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi or figure.dpi)
    return buffer.getvalue()


def describe(
    ax: Axes, title: str | None = None, detail: str = "", *, x: str | None = None, y: str | None = None
) -> Figure:
    """Set title, a lighter line of details below it, and axis labels; return the figure. None leaves a text as it is.

    An axis label has quantity, unit in parentheses, and an arrow for the better direction.
    """
    if x is not None:
        ax.set_xlabel(escaped(x), fontsize=TEXT + 0.5, color=INK)
    if y is not None:
        ax.set_ylabel(escaped(y), fontsize=TEXT + 0.5, color=INK)
    look: dict[str, Any] = {"fontsize": 11.5, "fontweight": "bold", "color": INK}
    if title is not None and not detail:
        ax.set_title(escaped(title), loc="left", **look)
    elif title is not None:
        below = ax.set_title(escaped(detail), loc="left", fontsize=TEXT, color=MUTED)
        # anchored to the lower line, which matplotlib itself lifts above an axis on top
        at: dict[str, Any] = {"xycoords": below, "textcoords": "offset points", "annotation_clip": False}
        ax.annotate(escaped(title), (0, 1), (0, 5), gid=TITLE, **at, **look)
    return figure_of(ax)


def annotate(
    ax: Axes, text: str, at: tuple[Any, Any], offset: tuple[float, float] = (5, 0), *, coords: Any = "data", **look: Any
) -> Annotation:
    """Write a text at ``offset`` points from a place."""
    look = {"fontsize": TEXT - 0.5, "color": INK, "va": "center", "annotation_clip": False, **look}
    return ax.annotate(escaped(text), at, offset, coords, "offset points", **look)


def legend(
    ax: Axes, corner: str, at: tuple[float, float] | None = None, handles: Sequence[Any] | None = None, **options: Any
) -> Any:
    """Put a legend without a frame into a corner of the axes, or with that corner of its own ``at`` a place."""
    place: dict[str, Any] = {} if at is None else {"bbox_to_anchor": at, "borderaxespad": 0.0}
    look = {"loc": corner, "frameon": False, "fontsize": TEXT - 0.5, **place, **options}
    return ax.legend(handles=handles, **look)


def legend_right(ax: Axes, handles: Sequence[Any] | None = None, **options: Any) -> Any:
    """Put a legend at the right of the axes."""
    return legend(ax, "upper left", (1.01, 1.0), handles, labelspacing=0.65, **options)


def escaped(text: object) -> str:
    """Return a text whose dollar signs matplotlib shows; a pair of them would mean mathematics."""
    return str(text).replace("$", r"\$")


def needs_log(values: Iterable[float | None]) -> bool:
    """Return whether positive values spread over a factor of :data:`LOG_FROM` or more."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) >= LOG_FROM


def fit_axis(
    ax: Axes, side: Literal["x", "y"], values: Iterable[float | None], *, before: float = 0.06, after: float = 0.12,
    zero: bool = False,
) -> None:  # fmt: skip
    """Set scale and limits of an axis: log if the values need it, else linear, from zero if asked for.

    ``before`` and ``after`` are the shares of the span that stay free at either end.
    """
    finite = [float(v) for v in values if v is not None and math.isfinite(v)] or [1.0]
    low, high = min(finite), max(finite)
    if needs_log(finite):
        low, high = low / max(1.25, (high / low) ** before), high * max(1.25, (high / low) ** after)
        ax.set(**{f"{side}scale": "log"})
        plain_log(getattr(ax, f"{side}axis"), low, high)
    elif zero:
        low, high = 0.0, (high or 1.0) * (1 + after)
    else:
        span = (high - low) or 0.4 * abs(high) or 1.0
        low, high = low - before * span, high + after * span
    ax.set(**{f"{side}lim": (low, high)})


def settings_axis(ax: Axes, settings: Sequence[float]) -> None:
    """Set the x axis of a setting with a tick for each value; base-2 log if the values spread."""
    if settings[-1] >= LOG_FROM * settings[0] > 0:
        ax.set_xscale("log", base=2)
        ax.set_xlim(settings[0] / 1.25, settings[-1] * 1.25)
    ax.xaxis.set_major_locator(FixedLocator(list(settings)))
    ax.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value in settings]))
    ax.xaxis.set_minor_locator(NullLocator())


def nice_ticks(low: float, high: float) -> list[float]:
    """Return at most nine round ticks inside [low, high] for a log axis.

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
    """Write plain numbers at round ticks of a log axis."""
    axis.set_major_locator(FixedLocator(nice_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}" if value < 10_000 else f"{value:,.0f}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
