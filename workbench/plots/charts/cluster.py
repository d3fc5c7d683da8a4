"""Which worker of a cluster did what when: a row for each, a bar for each unit of work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.plots.drawing.figure import TEXT, axes_or_new, figure_of, name_rows, plain, plural, say, title
from workbench.present import style
from workbench.study.cluster.job import WAITING, Span

COLUMNS = ["worker", "host", "kind", "words", "technique", "started_s", "seconds"]
_HEIGHT = 0.62
_LOOKS: dict[str, dict[str, Any]] = {
    "prepare": {"alpha": 0.45, "hatch": "///"},
    "time": {"alpha": 1.0},
    WAITING: {"color": style.FAINT},
}
_WORDS = {"prepare": "prepares", "time": "times", WAITING: "waits for its turn on the host"}


def cluster_data(summary: Any) -> pd.DataFrame:
    """Return a row for each span of work, with seconds since the first began; of one worker in the order of time.

    Parameters
    ----------
    summary : ClusterSummary or iterable of Span
        What :meth:`workbench.Study.run` returns where ``cluster`` was given.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    found = getattr(summary, "spans", summary)
    spans = list(found) if isinstance(found, Iterable) else [found]
    if not all(isinstance(span, Span) for span in spans):
        raise ConfigError(f"plot_cluster takes what study.run(cluster=...) returned; got {given(summary)}.")
    begun = min((span.started for span in spans), default=0.0)
    rows = [
        {
            "worker": span.worker,
            "host": span.host,
            "kind": span.kind,
            "words": span.words,
            "technique": span.technique,
            "started_s": span.started - begun,
            "seconds": span.ended - span.started,
        }
        for span in sorted(spans, key=lambda span: (span.host, span.worker, span.started))
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def plot_cluster(summary: Any, *, ax: Axes | None = None) -> Figure:
    """Draw what every worker did from when to when.

    Workers of one host stand together: their solid bars, the timings, never overlap.

    Parameters
    ----------
    summary : ClusterSummary or iterable of Span
        As :func:`cluster_data` takes it.

    Examples
    --------
    >>> plot_cluster(study.run(recipes, cluster="tcp://head:8786"))  # doctest: +SKIP
    """
    frame = cluster_data(summary)
    lanes = list(dict.fromkeys(zip(frame["host"], frame["worker"], strict=True)))
    _, target = axes_or_new(ax, 7.6, 1.9 + 0.42 * len(lanes))
    if frame.empty:
        say(target, "No worker has done anything: every trial was complete already.")
        return figure_of(target)
    for place, lane in enumerate(lanes):
        mine = frame[(frame["host"] == lane[0]) & (frame["worker"] == lane[1])]
        for span in mine.to_dict("records"):
            look = {"color": style.technique(span["technique"]).colour, **_LOOKS[span["kind"]]}
            height = 0.12 if span["kind"] == WAITING else _HEIGHT
            target.barh(
                place, span["seconds"], left=span["started_s"], height=height, edgecolor="white", linewidth=0.8, **look
            )
    target.set_yticks(range(len(lanes)), [plain(f"{worker}\n{host}") for host, worker in lanes])
    target.invert_yaxis()
    name_rows(target)
    target.set_xlim(0, (frame["started_s"] + frame["seconds"]).max() * 1.02)
    target.set_xlabel("seconds since the first worker began", fontsize=TEXT + 0.5, color=style.INK)
    hosts = plural(frame["host"].nunique(), "host")
    title(target, f"{plural(len(lanes), 'worker')} on {hosts}", "one worker of a host times at a time")
    _legend(target, frame)
    return figure_of(target)


def _legend(ax: Axes, frame: pd.DataFrame) -> None:
    """Name the colours of techniques and the looks of what is done, below the chart."""
    techniques = [name for name in style.TECHNIQUES if name in set(frame["technique"])]
    handles = [Patch(color=style.technique(name).colour, label=style.technique(name).word) for name in techniques]
    for kind in (kind for kind in _LOOKS if kind in set(frame["kind"])):
        look = {"color": style.MUTED, **_LOOKS[kind]}
        handles.append(Patch(**look, label=_WORDS[kind]))
    figure_of(ax).legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=TEXT - 0.5)
