"""How training went: the validation metric against epochs, from recorded progress events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.progress import Progress
from workbench.plots.drawing.edge_labels import LineWords, place_on_lines
from workbench.plots.drawing.figure import TEXT, dress, figure_of, new_figure, plural, say, title
from workbench.plots.drawing.labels import Obstacles
from workbench.present import style

COLUMNS = ["run", "part", "stage", "epoch", "total_epoch", "step", "loss", "learning_rate", "metric"]
# Colours and markers of runs; those of techniques say something else.
_LOOKS = (
    ("#D55E00", "o"),
    ("#0072B2", "^"),
    ("#009E73", "D"),
    ("#CC79A7", "s"),
    ("#E69F00", "P"),
    ("#56B4E9", "v"),
)


def training_data(runs: Mapping[str, Iterable[Progress]]) -> pd.DataFrame:
    """Return one line per event in which training told how it went.

    Parameters
    ----------
    runs
        Name of a run to the events that its ``progress`` callback got: ``events.append`` keeps them.

    Returns
    -------
    DataFrame
        ``part`` counts the trainings of a run from 0, ``epoch`` passes over the training data within one of them,
        ``total_epoch`` over all so far. ``metric`` is on the validation split and NaN where it was not measured
        after that very step; ``loss`` is the running mean over batches, NaN before the first step.

    Examples
    --------
    >>> events = []
    >>> recipe.apply(task, progress=events.append)  # doctest: +SKIP
    >>> training_data({"distill": events})  # doctest: +SKIP
    """
    rows = [row for name, events in runs.items() for row in _rows(name, events)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    # the last event of a training repeats the one of its last step
    return frame.drop_duplicates(["run", "part", "step"], keep="last").reset_index(drop=True)


def _rows(run: str, events: Iterable[Progress]) -> Iterable[dict[str, Any]]:
    part, before, offset = -1, ("", math.inf), 0.0
    for event in events:
        values = event.values
        if "epoch" not in values or "learning_rate" not in values:
            continue
        epoch = float(values["epoch"])
        if event.stage != before[0] or epoch < before[1]:
            offset += 0.0 if part < 0 else before[1]
            part += 1
        before = (event.stage, epoch)
        fresh = values.get("metric_epoch") == epoch
        yield {
            "run": run,
            "part": part,
            "stage": event.stage,
            "epoch": epoch,
            "total_epoch": offset + epoch,
            "step": values.get("step"),
            "loss": values.get("loss", math.nan),
            "learning_rate": values["learning_rate"],
            "metric": values["metric"] if fresh else math.nan,
        }


def plot_training(
    runs: Mapping[str, Iterable[Progress]],
    *,
    references: Mapping[str, float] | None = None,
    metric: str = "metric",
    ax: Axes | None = None,
) -> Figure:
    """Draw the validation metric against the epochs trained, one curve per run.

    Parameters
    ----------
    runs
        As for :func:`training_data`.
    references
        Names and values of horizontal lines, for example ``{"original model": 0.94}``.
    metric
        What the metric is, for the axis: ``"accuracy"``.
    ax
        Draw all epochs here, instead of into a new figure with the last half of them enlarged beside it.
    """
    frame = training_data(runs).dropna(subset=["metric"])
    axes = new_figure(11.0, 4.6, columns=2)[1] if ax is None else [dress(ax)]
    if frame.empty:
        for target in axes[1:]:
            target.remove()
        say(axes[0], "No training told a validation metric. Train with evaluate_every above 0 and record the progress.")
        return figure_of(axes[0])
    known = references or {}
    curves = _in_order(frame, runs)
    _panel(axes[0], curves, known, metric)
    title(axes[0], "What training wins back", f"{plural(len(curves), 'run')}, all epochs")
    axes[0].margins(y=0.1)
    axes[0].legend(frameon=False, fontsize=TEXT, loc="lower right", bbox_to_anchor=(1.0, 0.1))
    if ax is None:
        _panel(axes[1], curves, known, metric)
        title(axes[1], "The last half", "enlarged")
        _enlarge(axes[1], frame, known)
    for target in axes:
        _name_references(target, known, frame)
    return figure_of(axes[0])


def _panel(ax: Axes, curves: list[tuple[str, pd.DataFrame]], references: Mapping[str, float], metric: str) -> None:
    ax.set_xlabel("epochs (passes over the training data)", fontsize=TEXT + 0.5, color=style.INK)
    ax.set_ylabel(f"{metric} (validation data) ↑", fontsize=TEXT + 0.5, color=style.INK)
    for number, (name, line) in enumerate(curves):
        colour, marker = _LOOKS[number % len(_LOOKS)]
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.6, "zorder": 4}
        words = f"{name}: {line['metric'].iloc[-1]:.3f} at the end"
        ax.plot(line["total_epoch"], line["metric"], label=words, **look)
    for value in references.values():
        ax.axhline(value, color=style.MUTED, linewidth=1.0, linestyle=":")
    ax.set_xlim(left=0.0)


def _enlarge(ax: Axes, frame: pd.DataFrame, references: Mapping[str, float]) -> None:
    """Show the epochs of the second half, and the references that are near to what is seen there."""
    half = frame["total_epoch"].max() / 2
    late = frame.loc[frame["total_epoch"] >= half, "metric"]
    low, high = float(late.min()), float(late.max())
    room = max(high - low, 1e-3)
    near = [value for value in references.values() if low - room <= value <= high + room]
    low, high = min([low, *near]), max([high, *near])
    ax.set_ylim(low - 0.15 * (high - low or 1e-3), high + 0.15 * (high - low or 1e-3))
    ax.set_xlim(left=half)


def _in_order(frame: pd.DataFrame, runs: Mapping[str, Any]) -> list[tuple[str, pd.DataFrame]]:
    groups = dict(list(frame.groupby("run")))
    return [(name, groups[name]) for name in runs if name in groups]


def _name_references(ax: Axes, references: Mapping[str, float], frame: pd.DataFrame) -> None:
    figure_of(ax).draw_without_rendering()
    points = list(zip(frame["total_epoch"], frame["metric"], strict=True))
    low, high = ax.get_ylim()
    lines = [
        LineWords(f"{name}: {value:.3f}", value, style.MUTED, above=value > (low + high) / 2)
        for name, value in references.items()
        if low <= value <= high
    ]
    place_on_lines(ax, lines, Obstacles(points=points))
