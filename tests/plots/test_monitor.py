"""The chart of a monitor: each sample over its time, pauses as gaps, words inside the figure."""

from __future__ import annotations

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.measure.resources.monitor import Cost, Mark, Pause
from workbench.measure.resources.monitor_reader import Sample


class Ran:
    """Stands for a monitor that has run for ten seconds, a sample each second."""

    cost = Cost(0.05, 0.005, 2.5)

    def __init__(self, *, gpu=False, pauses=(), marks=(), seconds=10.0):
        self.seconds, self.pauses, self.marks = seconds, pauses, marks
        more = (40.0, 900.0, 60.0) if gpu else (None, None, None)
        step = seconds / 10
        self.samples = [
            Sample(step * i, step, 10.0 * (i % 5), 10.0 * (i % 5) + 5, 100.0 + 10 * (i % 7), *more)
            for i in range(1, 11)
            if not any(p.start_s < step * i - step / 2 < (p.end_s or seconds) for p in pauses)
        ]

    def columns(self):
        return {name: [getattr(sample, name) for sample in self.samples] for name in Sample._fields}


def texts(figure):
    found = [text for ax in figure.axes for text in ax.texts]
    return [text for text in found if text.get_text()]


def test_every_sample_stands_over_its_time():
    monitor = Ran()
    figure = wb.plots.plot_monitor(monitor)
    cpu, memory = figure.axes
    (everything, own), (rss, _) = cpu.lines, memory.lines
    assert list(own.get_ydata())[1:] == monitor.columns()["cpu_percent"]
    assert list(everything.get_ydata())[1:] == monitor.columns()["machine_percent"]
    assert list(rss.get_xdata()) == list(range(11)) and rss.get_drawstyle() == "steps-pre"
    assert cpu.get_ylim() == (0, 105) and memory.get_ylim()[0] == 0
    assert "peak: 160 MiB" in [text.get_text() for text in memory.texts]
    assert memory.get_xlim() == (0, 10) and memory.get_xlabel() == "Time (s)"
    assert "0.5 % of one core" in cpu.get_title(loc="left")


def test_a_pause_is_a_gap_that_is_shaded_and_said():
    monitor = Ran(pauses=(Pause(3.0, 5.0), Pause(8.0, None)))
    frame = wb.plots.monitor_data(monitor)
    assert list(frame["at_s"]) == [1, 2, 3, 6, 7, 8] and list(frame["part"]) == [0, 0, 0, 1, 1, 1]
    cpu, memory = wb.plots.plot_monitor(monitor).axes
    first, second = memory.lines[:2]
    assert list(first.get_xdata()) == [0, 1, 2, 3] and list(second.get_xdata()) == [5, 6, 7, 8]
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in cpu.patches]
    assert spans == [(3, 5), (8, 10)] and "Shaded: paused" in cpu.get_title(loc="left")


def test_panels_of_a_gpu_only_where_there_is_one():
    assert len(wb.plots.plot_monitor(Ran()).axes) == 2
    cpu, _memory, use, held, power = wb.plots.plot_monitor(Ran(gpu=True)).axes
    assert use.get_ylim() == (0, 105) and "900 MiB" in str([text.get_text() for text in held.texts])
    assert "60 W" in str([text.get_text() for text in power.texts])
    assert len(cpu.lines) == 2


def test_marks_are_named_without_covering_each_other():
    marks = tuple(
        Mark(at, f"prepare {name}") for at, name in ((0.2, "float"), (0.4, "prune"), (5.0, "x"), (9.9, "last"))
    )
    figure = wb.plots.plot_monitor(Ran(marks=marks))
    figure.canvas.draw()
    named = [text for text in texts(figure) if text.get_text().startswith("prepare")]
    assert [text.get_text() for text in named] == [mark.name for mark in marks]
    boxes = [text.get_window_extent() for text in named]
    for i, box in enumerate(boxes):
        assert box.x1 <= figure.bbox.x1 + 1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    for ax in figure.axes[1:]:
        assert sorted(line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1)[-1] == 9.9


def test_marks_that_find_no_room_keep_their_line():
    figure = wb.plots.plot_monitor(Ran(marks=tuple(Mark(5.0, f"mark {i}") for i in range(9))))
    named = [text for text in texts(figure) if text.get_text().startswith("mark")]
    assert len(named) == 3
    assert sum(len(set(line.get_xdata())) == 1 for line in figure.axes[1].lines) == 9


@pytest.mark.parametrize(("seconds", "unit", "end"), [(10.0, "s", 10), (600.0, "min", 10), (36000.0, "h", 10)])
def test_the_axis_has_a_unit_that_reads_well(seconds, unit, end):
    ax = wb.plots.plot_monitor(Ran(seconds=seconds)).axes[-1]
    assert ax.get_xlabel() == f"Time ({unit})" and ax.get_xlim()[1] == pytest.approx(end)


def test_all_words_stand_inside_the_figure():
    marks = (Mark(0.0, "start of something long"), Mark(9.99, "the end of it"))
    figure = wb.plots.plot_monitor(Ran(gpu=True, marks=marks, pauses=(Pause(4.0, 6.0),)))
    figure.canvas.draw()
    for ax in figure.axes:
        for text in [*ax.texts, ax.title, ax._left_title]:
            if text.get_text():
                box = text.get_window_extent()
                assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, text.get_text()
                assert box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1, text.get_text()


def test_nothing_sampled_is_said_and_something_else_refused():
    empty = Ran()
    empty.samples = []
    assert "Nothing was sampled" in wb.plots.plot_monitor(empty).axes[0].texts[0].get_text()
    assert wb.plots.monitor_data(empty).empty
    for wrong in (None, [1, 2], "monitor"):
        with pytest.raises(ConfigError, match=r"takes a workbench\.measure\.Monitor that has run"):
            wb.plots.plot_monitor(wrong)


def test_a_real_monitor_can_be_drawn_while_it_runs():
    with wb.Monitor(rate_hz=200, gpu=False) as monitor:
        monitor.mark("begin")
        with monitor.paused():
            pass
        while len(monitor.samples) < 5:
            np.ones(10).sum()
        assert wb.plots.figure_png(wb.plots.plot_monitor(monitor)).startswith(b"\x89PNG")
