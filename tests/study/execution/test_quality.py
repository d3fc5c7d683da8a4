"""Quality of an engine where the metric has no number, and agreement with the float model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from workbench.study.execution.quality import agreement, judge
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


LABELS = torch.tensor([0, 1, 2, 1])
BASE = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [0, 0, 9]])


def changed(*rows: int) -> torch.Tensor:
    """Return outputs with another answer in some rows."""
    outputs = BASE.clone()
    for row in rows:
        outputs[row] = outputs[row].roll(1)
    return outputs


@pytest.mark.parametrize(("rows", "share"), [((), 1.0), ((1,), 0.75), ((0, 1, 2, 3), 0.0)])
def test_the_share_of_samples_with_the_same_answer_right_or_wrong(rows, share):
    found, words = agreement(changed(*rows), BASE, LABELS)
    assert found == share and "share of samples with the same largest output" in words


def test_nan_agrees_with_nothing():
    mine = BASE.clone()
    mine[2, 2] = float("nan")  # argmax would point there, as the float model does
    mine[0, 0] = float("inf")
    assert agreement(mine, BASE, LABELS)[0] == 0.5


@pytest.mark.parametrize("axis", [1, -1])
def test_positions_of_a_sample_are_counted_one_by_one(axis):
    generator = torch.Generator().manual_seed(0)
    base, mine = (torch.randn(5, 7, 4, generator=generator).movedim(-1, axis) for _ in range(2))
    labels = torch.randint(0, 4, (5, 7), generator=generator)
    labels[0, 0] = -100  # not counted by losses; the answer there is compared all the same
    found, words = agreement(mine, base, labels)
    by_hand = np.mean(mine.movedim(axis, -1).numpy().argmax(-1) == base.movedim(axis, -1).numpy().argmax(-1))
    assert found == pytest.approx(by_hand) and "35 positions of samples" in words


def test_the_output_that_fits_the_targets_is_found_in_a_structure():
    features = torch.randn(4, 8)
    mine, base = ({"logits": changed(1), "features": features}, {"logits": BASE, "features": features + 1})
    assert agreement(mine, base, {"label": LABELS})[0] == 0.75
    found, words = agreement((changed(1), changed(1, 2)), (BASE, BASE), (LABELS, LABELS))
    assert found == pytest.approx(5 / 8) and "8 positions" in words


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.randn(4, 3), torch.randn(4)),  # regression
        (torch.randn(4, 3), None),
        (torch.randn(4, 3), torch.tensor([0, 1, 2, 7])),  # numbers of something else
        (torch.randn(4, 1), torch.tensor([0, 0, 0, 0])),
        (torch.randn(4), torch.tensor([0, 1, 0, 1])),
        (torch.randn(4, 3), torch.ones(4, dtype=torch.bool)),
    ],
)
def test_outputs_without_classes_tell_how_near_they_are(outputs, targets):
    noise = 0.1 * torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    found, words = agreement(outputs + noise, outputs, targets)
    a, b = (outputs + noise).double().numpy().ravel(), outputs.double().numpy().ravel()
    assert found is None and words.startswith("The outputs have no classes. ")
    assert f"correlation {np.corrcoef(a, b)[0, 1]:.6g}" in words
    assert f"relative error {np.linalg.norm(a - b) / np.linalg.norm(b):.2g}" in words


def test_what_cannot_be_told_is_said():
    flat = torch.ones(4, 3)
    assert "relative error 1." in agreement(2 * flat, flat, None)[1]
    assert "correlation" not in agreement(2 * flat, flat, None)[1]
    assert "are all 0" in agreement(flat, 0 * flat, None)[1]
    assert "NaN or infinite" in agreement(flat * float("nan"), flat, None)[1]
    assert "not floats" in agreement(LABELS, LABELS, None)[1]
