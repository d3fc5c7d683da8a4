"""Dimensions that may have any size beside the batch: how they are named, and what fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from paths import SUPPORT

import workbench as wb
from workbench.core.errors import TaskError
from workbench.tasks.axes import alternative_sizes, axis_sizes, check_dynamic, open_dims, resize

LENGTHS = f"{SUPPORT / 'lengths.py'}:lengths"
TWO = {"tokens": np.zeros((2, 8)), "weight": np.zeros((2, 8))}


@pytest.mark.parametrize(
    "dynamic",
    [5, ["tokens"], {"tokens": 1}, {"tokens": {}}, {"tokens": {0: "n"}}, {"tokens": {True: "n"}}, {1: {1: "n"}}]
    + [{"tokens": {1: name}} for name in ("batch", "two words", "", 3)],
)
def test_other_forms_are_refused_with_the_right_one(dynamic):
    with pytest.raises(TaskError, match=r"\{'tokens': \{1: 'sequence'\}\}"):
        check_dynamic(dynamic)


@pytest.mark.parametrize(
    ("dynamic", "words"),
    [
        ({"token": {1: "s"}}, "input 'token' does not exist. The inputs are tokens, weight"),
        ({"tokens": {2: "s"}}, "a dimension 2"),
        ({"tokens": {1: "s"}, "other": {1: "s"}}, "got 8 and 5 .in other. for 's'"),
        ({"one": {1: "s"}}, "'s' must be at least 2"),
    ],
)
def test_dimensions_that_are_not_there_are_told(dynamic, words):
    examples = dict(TWO)
    if "other" in dynamic:
        examples["other"] = np.zeros((2, 5))
    if "one" in dynamic:
        examples["one"] = np.zeros((2, 1))
    with pytest.raises(TaskError, match=words):
        open_dims(dynamic, list(examples), examples)


def test_a_task_tells_before_any_work(tiny_task):
    wrong = wb.Task(
        name="wrong",
        build=tiny_task.build,
        train=(tiny_task.train.inputs, tiny_task.train.targets),
        evaluation=(tiny_task.evaluation.inputs, tiny_task.evaluation.targets),
        metric=tiny_task.metric,
        loss=tiny_task.loss,
        dynamic={"picture": {2: "height"}},
    )
    with pytest.raises(TaskError, match=r"input 'picture' does not exist\. The inputs are image"):
        wrong.check()
    assert tiny_task.open_dims == [{}]


def test_open_dimensions_are_part_of_what_a_task_is():
    task = wb.load_task(LENGTHS)
    assert task.open_dims == [{1: "sequence"}, {1: "sequence"}]
    other = wb.load_task(LENGTHS)
    other.dynamic = {}
    assert task.fingerprint != other.fingerprint


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_inputs_are_cut_or_repeated(kind):
    tree = {"a": kind([[1, 2, 3]]), "b": kind([[[1, 2], [3, 4]]])}
    dims = [{1: "s"}, {2: "w"}]
    found = resize(tree, dims, {"s": 5, "w": 1})
    assert found["a"].tolist() == [[1, 2, 3, 1, 2]] and found["b"].tolist() == [[[1], [3]]]
    assert resize(tree, dims, {"s": 2})["a"].tolist() == [[1, 2]]
    assert resize(tree, [], {"s": 2})["a"].tolist() == [[1, 2, 3]]
    assert axis_sizes(tree, dims) == {"s": 3, "w": 2}


@pytest.mark.parametrize(("size", "other"), [(8, 4), (7, 6), (2, 1), (6, 3)])
def test_other_sizes_are_smaller_and_keep_divisors(size, other):
    assert alternative_sizes(np.zeros((2, size)), [{1: "s"}]) == {"s": other}
