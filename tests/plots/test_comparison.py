"""Charts of a comparison and of a noise floor."""

from __future__ import annotations

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.measure.comparison.compare import Comparison
from workbench.measure.comparison.noise import NoiseFloor
from workbench.timing.pace import Timing


def comparison(rounds=8, quick=2.0):
    slow, fast = ([np.full(5, ms * (1 + 0.01 * i)) for i in range(rounds)] for ms in (4.0, quick))
    return Comparison(
        "torch-eager", "onnxruntime", Timing.of(slow), Timing.of(fast), 2.0, 1.9, 2.1, "faster", 0.02, "noise floor"
    )


def inside(figure):
    figure.canvas.draw()
    for ax in figure.axes:
        for text in [*ax.texts, ax.title, ax.yaxis.label, ax.xaxis.label]:
            extent = text.get_window_extent()
            assert extent.x1 <= figure.bbox.x1 + 1 and extent.x0 >= figure.bbox.x0 - 1, text.get_text()


def test_rounds_ratios_and_the_band_are_drawn():
    figure = wb.plots.plot_comparison(comparison())
    left, right = figure.axes
    assert [list(np.round(line.get_ydata(), 3))[:2] for line in left.lines] == [[4.0, 4.04], [2.0, 2.02]]
    assert left.get_ylim()[0] == 0 and "ms/call" in left.get_ylabel()
    assert np.allclose(right.lines[1].get_ydata(), 2.0)
    assert right.get_ylim()[0] < 0.98  # the band around 1 is in sight
    words = {text.get_text() for text in right.texts}
    assert "onnxruntime: faster" in words
    assert right.get_ylabel() == "Speedup over torch-eager ↑"
    ticks = [text.get_text() for text in right.get_xticklabels()]
    assert ticks[-1] == "all" and all(1 <= int(tick) <= 8 for tick in ticks[:-1])
    inside(figure)
    inside(wb.plots.plot_comparison(comparison(rounds=60)))


def test_pairs_are_drawn_with_the_floor():
    floor = NoiseFloor(0.015, (1.001, 0.99, 1.02), "a machine", "f", "2026-01-01")
    (ax,) = wb.plots.plot_noise(floor).axes
    assert np.allclose(ax.lines[0].get_ydata(), [0.1, 1.01, 2.0], atol=0.001)
    assert list(ax.lines[1].get_ydata()) == [1.5, 1.5]
    assert "noise floor 1.5 %" in {text.get_text() for text in ax.texts}
    inside(ax.figure)


def test_something_else_is_refused():
    with pytest.raises(ConfigError, match=r"wb\.compare"):
        wb.plots.plot_comparison(3)
    with pytest.raises(ConfigError, match=r"wb\.measure_noise"):
        wb.plots.plot_noise([1.0])
