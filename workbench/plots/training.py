"""How training went: the validation metric against epochs, from recorded progress events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.progress import Progress
from workbench.plots import style
from workbench.plots.canvas import TEXT, dress, figure_of, new_figure, plural, say, title
from workbench.plots.edges import LineWords, place_on_lines, spread_right
from workbench.plots.labels import Label, Obstacles

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
    """Draw the validation metric against the epochs trained, one curve per run, each named at its end.

    Parameters
    ----------
    runs
        As for :func:`training_data`.
    references
        Names and values of horizontal lines, for example ``{"original model": 0.94}``.
    metric
        What the metric is, for the axis: ``"accuracy"``.
    ax
        Draw here instead of into a new figure.
    """
    frame = training_data(runs).dropna(subset=["metric"])
    target = new_figure(9.0, 4.6)[1][0] if ax is None else dress(ax)
    if frame.empty:
        say(target, "No training told a validation metric. Train with evaluate_every above 0, and record the progress.")
        return figure_of(target)
    title(target, "What training wins back", f"{plural(frame['run'].nunique(), 'run')}, measured on validation data")
    target.set_xlabel("epochs (passes over the training data)", fontsize=TEXT + 0.5, color=style.INK)
    target.set_ylabel(f"{metric} on validation data (higher is better)", fontsize=TEXT + 0.5, color=style.INK)
    labels = [_curve(target, line, *_LOOKS[i % len(_LOOKS)]) for i, (_, line) in enumerate(_in_order(frame, runs))]
    for value in (references or {}).values():
        target.axhline(value, color=style.MUTED, linewidth=1.0, linestyle=":")
    target.margins(y=0.1)
    target.set_xlim(left=0.0)
    spread_right(target, labels)
    _name_references(target, references or {}, frame)
    return figure_of(target)


def _in_order(frame: pd.DataFrame, runs: Mapping[str, Any]) -> list[tuple[str, pd.DataFrame]]:
    groups = dict(list(frame.groupby("run")))
    return [(name, groups[name]) for name in runs if name in groups]


def _curve(ax: Axes, line: pd.DataFrame, colour: str, marker: str) -> Label:
    ax.plot(line["total_epoch"], line["metric"], color=colour, marker=marker, markersize=4.5, linewidth=1.6, zorder=4)
    last = line.iloc[-1]
    return Label(f"{last['run']}: {last['metric']:.3f}", last["total_epoch"], last["metric"], essential=True)


def _name_references(ax: Axes, references: Mapping[str, float], frame: pd.DataFrame) -> None:
    figure_of(ax).draw_without_rendering()
    points = list(zip(frame["total_epoch"], frame["metric"], strict=True))
    low, high = ax.get_ylim()
    lines = [
        LineWords(f"{name}: {value:.3f}", value, style.MUTED, above=value < (low + high) / 2)
        for name, value in references.items()
    ]
    place_on_lines(ax, lines, Obstacles(points=points))
