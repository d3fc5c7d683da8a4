"""Quality of what an engine answered, where the metric has no number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from workbench.study.execution.quality import judge
from workbench.study.workers.protocol import save_arrays
from workbench.tasks.task import Task


def correlation(outputs, targets):
    """Return Pearson's correlation: NaN of constant outputs."""
    return float(torch.corrcoef(torch.stack([outputs[:, 0], targets.float()]))[0, 1])


@pytest.fixture
def task():
    x = torch.linspace(-1, 1, 400).reshape(-1, 1)
    return Task(
        name="line", build=lambda: nn.Linear(1, 1), train=(x, x[:, 0]), evaluation=(x[:100], x[:100, 0]),
        metric=correlation, loss=nn.functional.mse_loss,
    )  # fmt: skip


def written(folder, values):
    save_arrays(np.asarray(values, dtype=np.float32).reshape(-1, 1), folder)
    return folder


def test_a_metric_that_is_no_number_leaves_the_columns_empty_with_the_reason(task, tmp_path):
    good = written(tmp_path / "good", np.linspace(-1, 1, 100))
    flat = written(tmp_path / "flat", np.ones(100))
    found = judge(task, flat, good)
    assert (found.quality, found.drop) == (None, None) and "metric is nan" in found.notes["quality"]
    found = judge(task, good, flat)
    assert math.isclose(found.quality, 1.0, rel_tol=1e-5) and (found.drop, found.low, found.high) == (None, None, None)
    for name in ("quality_drop", "quality_drop_low", "quality_drop_high"):
        assert "The metric of the baseline is nan" in found.notes[name]
