"""The chart of a cluster's workers: rows and bars are the spans."""

import pytest

from workbench.core.errors import ConfigError
from workbench.plots import cluster_data, figure_png, plot_cluster
from workbench.study.cluster.job import Span

SPANS = [
    Span("b", "two", "time", "timing prune", "prune", 104.0, 107.0),
    Span("a", "one", "prepare", "preparing float", "float", 100.0, 102.0),
    Span("a", "one", "time", "timing float", "float", 103.0, 104.5),
    Span("c", "one", "waiting", "timing prune", "prune", 103.5, 104.5),
]


def test_times_count_from_the_first_span_and_workers_of_a_host_stand_together():
    frame = cluster_data(SPANS)
    assert list(frame["worker"]) == ["a", "a", "c", "b"]
    assert list(frame["started_s"]) == [0.0, 3.0, 3.5, 4.0] and list(frame["seconds"]) == [2.0, 1.5, 1.0, 3.0]


def test_every_span_is_a_bar_of_its_length_in_the_row_of_its_worker():
    figure = plot_cluster(SPANS)
    (ax,) = figure.axes
    bars = sorted((round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_width()) for bar in ax.patches)
    assert bars == [(0, 0.0, 2.0), (0, 3.0, 1.5), (1, 3.5, 1.0), (2, 4.0, 3.0)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a\none", "c\none", "b\ntwo"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {"prepare", "time", "prune"}
    assert figure_png(figure)[:4] == b"\x89PNG"


def test_nothing_to_draw_is_said_and_something_else_refused():
    assert "every trial was complete" in plot_cluster([]).axes[0].texts[0].get_text()
    with pytest.raises(ConfigError, match=r"study\.run\(cluster=...\)"):
        plot_cluster([{"worker": "a"}])
    with pytest.raises(ConfigError, match="got None"):
        plot_cluster(None)
