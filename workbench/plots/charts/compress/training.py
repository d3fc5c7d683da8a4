"""Training curves: the validation metric over epochs, from recorded progress events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.format.numbers import plural
from workbench.core.progress import Progress
from workbench.plots.drawing.figure import TEXT, describe, empty_chart, figure_of, legend, new_figure, style_axes
from workbench.plots.drawing.labels import LineLabel, Obstacles, place_on_lines
from workbench.plots.drawing.marks import lines
from workbench.present import style

COLUMNS = ["run", "part", "stage", "epoch", "total_epoch", "step", "loss", "learning_rate", "metric"]


def training_data(runs: Mapping[str, Iterable[Progress]]) -> pd.DataFrame:
    """Return a row per training event of ``runs``: for each name, the events of a ``progress`` callback.

    ``part`` numbers the trainings of a run, ``epoch`` counts epochs within one, ``total_epoch`` over all so far.
    ``metric`` is on the validation split, NaN if it was not measured after that step; ``loss`` is the running mean over
    batches, NaN before the first step.

    Examples
    --------
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
        yield {
            "run": run,
            "part": part,
            "stage": event.stage,
            "epoch": epoch,
            "total_epoch": offset + epoch,
            "step": values.get("step"),
            "loss": values.get("loss", math.nan),
            "learning_rate": values["learning_rate"],
            "metric": values["metric"] if values.get("metric_epoch") == epoch else math.nan,
        }


def plot_training(
    runs: Mapping[str, Iterable[Progress]],
    *,
    references: Mapping[str, float] | None = None,
    metric: str = "metric",
    ax: Axes | None = None,
) -> Figure:
    """Draw the validation metric over epochs, a curve for each of the ``runs`` of :func:`training_data`.

    ``references`` are names and values of horizontal lines, for example ``{"original model": 0.94}``, and ``metric`` is
    the name for the axis. A new figure has a second panel with the last half enlarged; ``ax`` gets all epochs.
    """
    frame = training_data(runs).dropna(subset=["metric"])
    if frame.empty:
        reason = "No validation metric recorded. Train with evaluate_every above 0 and record the progress."
        return empty_chart(ax, reason)
    axes = new_figure(11.0, 4.6, columns=2)[1] if ax is None else [style_axes(ax)]
    references = references or {}
    last = frame.groupby("run", sort=False)["metric"].last()
    names = {str(run): f"{run}: {value:.3f} at the end" for run, value in last.items()}
    for target in axes:
        lines(target, frame, "total_epoch", "metric", hue="run", names=names)
        for value in references.values():
            target.axhline(value, color=style.MUTED, linewidth=1.0, linestyle=":")
        target.set_xlim(left=0.0)
        describe(target, x="Epochs (passes over the training data)", y=f"{metric} (validation split) ↑")
    describe(axes[0], "Validation metric over training", f"{plural(len(names), 'run')}, all epochs")
    axes[0].margins(y=0.1)
    legend(axes[0], "lower right", (1.0, 0.1), fontsize=TEXT, borderaxespad=0.5)
    for target in axes[1:]:
        describe(target, "Last half", "enlarged")
        _enlarge(target, frame, references)
    for target in axes:
        _name_references(target, references, frame)
    return figure_of(axes[0])


def _enlarge(ax: Axes, frame: pd.DataFrame, references: Mapping[str, float]) -> None:
    """Show the second half of the epochs, and the references near its values."""
    half = frame["total_epoch"].max() / 2
    late = frame.loc[frame["total_epoch"] >= half, "metric"]
    low, high = float(late.min()), float(late.max())
    room = max(high - low, 1e-3)
    near = [value for value in references.values() if low - room <= value <= high + room]
    low, high = min([low, *near]), max([high, *near])
    ax.set_ylim(low - 0.15 * (high - low or 1e-3), high + 0.15 * (high - low or 1e-3))
    ax.set_xlim(left=half)


def _name_references(ax: Axes, references: Mapping[str, float], frame: pd.DataFrame) -> None:
    figure_of(ax).draw_without_rendering()
    points = list(zip(frame["total_epoch"], frame["metric"], strict=True))
    low, high = ax.get_ylim()
    labels = [
        LineLabel(f"{name}: {value:.3f}", value, style.MUTED, above=value > (low + high) / 2)
        for name, value in references.items()
        if low <= value <= high
    ]
    place_on_lines(ax, labels, Obstacles(points=points))
