"""Timeline of a cluster run: a row for each worker, a bar for each task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from workbench.core.format.numbers import plural
from workbench.plots.drawing.figure import TEXT, axes_or_new, describe, empty_chart
from workbench.plots.drawing.frames import attribute_frame, require
from workbench.plots.drawing.marks import HEIGHT, set_rows
from workbench.present import style
from workbench.study.cluster.job import WAITING, Span

_COLUMNS = {"worker": "worker", "host": "host", "kind": "kind", "label": "words", "technique": "technique",
            "started_s": "started"}  # fmt: skip
_LOOKS: dict[str, dict[str, Any]] = {
    "prepare": {"alpha": 0.45, "hatch": "///"},
    "time": {"alpha": 1.0},
    WAITING: {"color": style.FAINT},
}
_WORDS = {WAITING: "wait for the host's lock"}


def cluster_data(summary: Any) -> pd.DataFrame:
    """Return a row for each span of work, with its start in seconds; those of one worker in order of time.

    ``summary`` is what :meth:`workbench.Study.run` returned with ``cluster``, or its spans.
    """
    source = getattr(summary, "spans", summary)
    spans = list(source) if isinstance(source, Iterable) else [source]
    fits = all(isinstance(span, Span) for span in spans)
    require(fits, "plot_cluster", "the result of study.run(cluster=...)", summary)
    spans.sort(key=lambda span: (span.host, span.worker, span.started))
    frame = attribute_frame(spans, _COLUMNS)
    frame["seconds"] = [span.ended - span.started for span in spans]
    return frame.assign(started_s=frame["started_s"] - frame["started_s"].min())


def plot_cluster(summary: Any, *, ax: Axes | None = None) -> Figure:
    """Draw the tasks of each worker over time.

    Workers of one host are adjacent: their solid bars, the timings, never overlap. ``summary`` as for
    :func:`cluster_data`.
    """
    frame = cluster_data(summary)
    if frame.empty:
        return empty_chart(ax, "No worker has run a task: every trial was complete already.")
    lanes = list(dict.fromkeys(zip(frame["host"], frame["worker"], strict=True)))
    target = axes_or_new(ax, 7.6, 1.9 + 0.42 * len(lanes))
    for span in frame.to_dict("records"):
        look = {"color": style.technique(span["technique"]).color, **_LOOKS[span["kind"]]}
        height = 0.12 if span["kind"] == WAITING else HEIGHT
        place = lanes.index((span["host"], span["worker"]))
        edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.8}
        target.barh(place, span["seconds"], left=span["started_s"], height=height, **edge, **look)
    set_rows(target, [f"{worker}\n{host}" for host, worker in lanes])
    target.set_xlim(0, (frame["started_s"] + frame["seconds"]).max() * 1.02)
    counts = f"{plural(len(lanes), 'worker')} on {plural(frame['host'].nunique(), 'host')}"
    figure = describe(target, counts, "one timing at a time on each host", x="Time since the first task (s)")
    marks = [mark for name, mark in style.TECHNIQUES.items() if name in set(frame["technique"])]
    handles = [Patch(color=mark.color, label=mark.word) for mark in marks]
    kinds = [kind for kind in _LOOKS if kind in set(frame["kind"])]
    handles += [Patch(label=_WORDS.get(kind, kind), **{"color": style.MUTED, **_LOOKS[kind]}) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=TEXT - 0.5)
    return figure
