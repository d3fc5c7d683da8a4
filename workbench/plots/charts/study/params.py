"""A column of a study over a recipe parameter, one line per backend."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.errors import StudyError, unknown_name
from workbench.plots.charts.study.tidy import at_batch_size, complete_frame, why_empty
from workbench.plots.drawing.figure import (
    axes_or_new,
    empty_chart,
    figure_of,
    fit_axis,
    legend_right,
    set_labels,
    set_title,
)
from workbench.plots.drawing.lines import lines
from workbench.present import style

COLUMNS = ["recipe", "recipe_id", "technique", "backend", "batch_size", "recommended"]


def params_data(rows: Any, x: str, y: str = "quality", *, batch_size: int = 32) -> pd.DataFrame:
    """Return the complete rows of one batch size that have both columns, sorted by backend and ``x``.

    Raises
    ------
    StudyError
        If there is no such column of numbers. Recipe parameters are columns such as ``params_prune_ratio``.
    """
    frame = complete_frame(rows)
    numeric = [str(name) for name in frame.select_dtypes("number").columns]
    for name in (x, y):
        if len(frame) and name not in numeric:
            raise StudyError(unknown_name("numeric column", name, numeric))
    if frame.empty:
        return frame.reindex(columns=list(dict.fromkeys([*COLUMNS, x, y])))
    same = at_batch_size(frame, batch_size).dropna(subset=[x, y])
    columns = list(dict.fromkeys([*COLUMNS, x, y]))
    return same.sort_values(["backend", x])[columns].reset_index(drop=True)


def plot_params(rows: Any, x: str, y: str = "quality", *, batch_size: int = 32, ax: Axes | None = None) -> Figure:
    """Draw a column over a recipe parameter, such as quality over ``params_prune_ratio``, one line per backend.

    Rows of recipes without that step are left out.

    Examples
    --------
    >>> study.run(wb.sweep(wb.Prune, ratio=[0.1, 0.3, 0.5]))  # doctest: +SKIP
    >>> wb.plots.plot_params(study, x="params_prune_ratio", y="quality")  # doctest: +SKIP
    """
    frame = params_data(rows, x, y, batch_size=batch_size)
    if frame.empty:
        return empty_chart(ax, why_empty(rows, x))
    axes = axes_or_new(ax, 7.5, 4.4)
    names = {backend: style.backend(backend).word for backend in frame["backend"]}
    lines(axes, frame, x, y, hue="backend", names=names)
    fit_axis(axes, "x", frame[x])
    fit_axis(axes, "y", frame[y])
    set_title(axes, f"{y} over {x}", f"batch size {int(frame['batch_size'].iloc[0])}, complete trials")
    set_labels(axes, x, y)
    if len(names) > 1:
        legend_right(axes)
    return figure_of(axes)
