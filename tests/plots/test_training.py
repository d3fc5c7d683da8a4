"""Training curves: the frame from events, and a figure whose words stand clear of each other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from matplotlib.text import Annotation, Text

from workbench.core.progress import Progress
from workbench.plots import figure_png, plot_training, training_data
from workbench.plots.drawing.figure import new_figure


def events(metrics, stage="distill", per_epoch=2):
    """Return what a training tells: an evaluation every second step, each step's loss, the last event twice."""
    told = [Progress("float", message="measuring")]
    for step in range(per_epoch * (len(metrics) - 1) + 1):
        epoch, last = step / per_epoch, step // per_epoch
        values = {"epoch": epoch, "step": step, "learning_rate": 0.1, "metric": metrics[last], "metric_epoch": last}
        told.append(Progress(stage, epoch, 1.0, "", values | ({"loss": 1.0 / step} if step else {})))
    return [*told, told[-1], Progress(stage, 1, 1, values={"quality": 0.5})]


def test_the_metric_stands_where_it_was_measured():
    frame = training_data({"a": events([0.1, 0.5, 0.6])})
    assert frame["step"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(frame["metric"], [0.1, math.nan, 0.5, math.nan, 0.6])
    np.testing.assert_allclose(frame["loss"], [math.nan, 1, 0.5, 1 / 3, 0.25])
    assert set(frame["part"]) == {0}


def test_trainings_one_after_another_go_on_counting():
    both = [*events([0.1, 0.5]), *events([0.4, 0.7]), *events([0.6, 0.8], stage="recover")]
    frame = training_data({"a": both}).dropna(subset=["metric"])
    assert frame["part"].tolist() == [0, 0, 1, 1, 2, 2]
    assert frame["total_epoch"].tolist() == [0, 1, 1, 2, 2, 3]
    assert frame["stage"].tolist() == ["distill"] * 4 + ["recover"] * 2


def test_events_of_a_real_training_are_read():
    import torch
    from torch import nn

    from workbench.compress.training.loop import train
    from workbench.compress.training.plan import TrainingPlan
    from workbench.tasks.split import Split

    told, module, script = [], nn.Linear(3, 2), iter([0.1, 0.2, 0.3])

    def loss(outputs, inputs, targets, indices):
        return nn.functional.cross_entropy(outputs, targets)

    data = Split(torch.randn(20, 3), torch.zeros(20, dtype=torch.int64))
    plan = TrainingPlan(2, 10, None, None)
    train(module, data, loss, plan, stage="x", progress=told.append, seed=0, quality=lambda: next(script))
    frame = training_data({"x": told}).dropna(subset=["metric"])
    assert frame["metric"].tolist() == [0.1, 0.2, 0.3]
    assert frame["epoch"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("many", [False, True])
def test_curves_and_references_are_named(many):
    names = [f"a recipe with a rather long name {i}" for i in range(6)] if many else ["labels", "logits"]
    runs = {name: events([0.1, 0.8, 0.9 + 0.001 * i]) for i, name in enumerate(names)}
    figure = plot_training(runs, references={"original model": 0.94, "after pruning": 0.1}, metric="accuracy")
    figure.draw_without_rendering()
    whole, late = figure.axes
    assert late.get_xlim()[0] == 1.0
    assert late.get_ylim()[0] > 0.5
    width, height = figure.canvas.get_width_height()
    for ax, wanted in ((whole, ["original", "after"]), (late, ["original"])):
        assert "Epochs" in ax.get_xlabel()
        assert "accuracy" in ax.get_ylabel()
        notes = [t for t in ax.texts if isinstance(t, Annotation) and any(name in t.get_text() for name in wanted)]
        key = [ax.get_legend().get_window_extent()] if ax.get_legend() else []
        boxes = [Text.get_window_extent(note) for note in notes] + key
        assert len(notes) == len(wanted)
        assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
        for a, b in itertools.combinations(boxes, 2):
            assert min(a.x1, b.x1) - max(a.x0, b.x0) <= 1 or min(a.y1, b.y1) - max(a.y0, b.y0) <= 1
    said = [text.get_text() for text in whole.get_legend().get_texts()]
    assert said == [f"{name}: {0.9 + 0.001 * i:.3f} at the end" for i, name in enumerate(names)]
    assert figure_png(figure).startswith(b"\x89PNG")


def test_nothing_to_draw_is_said():
    figure = plot_training({"a": [Progress("distill", 1, 1)]})
    assert any("No validation metric" in text.get_text().replace("\n", " ") for text in figure.axes[0].texts)
    ax = new_figure(4, 3)[1][0]
    assert plot_training({"a": events([0.1, 0.2])}, ax=ax) is ax.figure
