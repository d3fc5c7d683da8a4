"""A task without a training split: what the other splits are, what is checked, and what travels."""

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from workbench.core.errors import TaskError
from workbench.tasks import Task

RNG = np.random.default_rng(1)
X, Y = RNG.standard_normal((400, 3)).astype(np.float32), RNG.integers(0, 4, 400)
OTHER = RNG.standard_normal((30, 3)).astype(np.float32)


def build():
    torch.manual_seed(0)
    return nn.Linear(3, 4)


def make(**changes):
    options = {
        "name": "mine",
        "build": build,
        "evaluation": (X, Y),
        "metric": lambda outputs, targets: (outputs.argmax(1) == targets).double().mean(),
        "loss": functional.cross_entropy,
    }
    return Task(**options | changes)


def rows(split):
    return {row.tobytes() for row in split.inputs.numpy()}


def test_validation_and_calibration_are_taken_out_of_evaluation():
    task = make()
    assert task.roles == ("calibration", "validation", "evaluation") and not task.has_train
    assert [len(task.split(role)) for role in task.roles] == [90, 40, 270]
    parts = [rows(task.split(role)) for role in task.roles]
    assert set.union(*parts) == {row.tobytes() for row in X}
    assert all(task.split(role).targets is not None for role in task.roles)
    assert [task.split(role).digest for role in task.roles] == [make().split(role).digest for role in task.roles]


def test_given_splits_leave_evaluation_whole():
    task = make(calibration=OTHER[:20], validation=(OTHER[20:], Y[:10]))
    assert task.held_out == () and len(task.evaluation) == 400 and len(task.calibration) == 20
    half = make(calibration=OTHER)
    assert half.held_out == ("validation",) and len(half.evaluation) == 360 and len(half.validation) == 40


def test_the_training_split_is_refused_by_name():
    for read in (lambda: make().train, lambda: make().split("train")):
        with pytest.raises(TaskError, match=r"mine has no training split\. Give Task"):
            read()


def test_check_passes_and_remarks_what_was_held_out():
    (note,) = make().check()
    assert "validation (40)" in note and "calibration (90)" in note and "270" in note
    (note,) = make(calibration=OTHER[:20], validation=(OTHER[20:], Y[:10])).check()
    assert "taken out" not in note


def test_calibration_may_not_repeat_the_evaluation_samples():
    with pytest.raises(TaskError, match="evaluation samples are also among the calibration or validation samples"):
        make(calibration=X[:100]).check()


def test_examples_come_from_calibration():
    task = make()
    assert torch.equal(task.examples(3), task.calibration.inputs[:3])


def test_structure_is_compared_with_evaluation():
    with pytest.raises(TaskError, match="calibration must have the inputs of evaluation"):
        make(calibration=OTHER[:, :2]).check()


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_evaluation_samples(count):
    with pytest.raises(TaskError, match=f"evaluation has {count} samples, too few"):
        len(make(evaluation=(X[:count], Y[:count])).evaluation)


def test_fingerprint_and_pickle():
    task = make()
    copy = cloudpickle.loads(cloudpickle.dumps(task))
    assert copy.fingerprint == task.fingerprint and not copy.has_train
    assert [copy.split(role).digest for role in copy.roles] == [task.split(role).digest for role in task.roles]
    assert copy.evaluate(copy.model()) == task.evaluate(task.model())
    assert make(train=(OTHER, Y[:30])).fingerprint != task.fingerprint
