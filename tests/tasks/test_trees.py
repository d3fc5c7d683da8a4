from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch

from workbench.core.errors import TaskError
from workbench.tasks import trees

Pair = namedtuple("Pair", "a b")


def nested():
    return {"x": torch.arange(6.0).reshape(3, 2), "y": (torch.arange(3), [torch.ones(3), None])}


def test_map_keeps_structure_and_other_mappings_become_dicts_with_attributes():
    assert type(trees.tree_map(lambda t: t * 2, nested())) is dict
    doubled = trees.tree_map(lambda t: t * 2, OrderedDict(nested()))
    assert isinstance(doubled, dict) and doubled.x is doubled["x"]
    with pytest.raises(AttributeError, match="Key 'z' does not exist"):
        doubled.z  # noqa: B018 - it raises
    assert type(trees.to_builtins(doubled)) is dict
    assert doubled["x"].tolist() == [[0, 2], [4, 6], [8, 10]]
    assert isinstance(doubled["y"], tuple) and isinstance(doubled["y"][1], list) and doubled["y"][1][1] is None
    assert trees.tree_map(lambda n: n + 1, Pair(1, 2)) == Pair(2, 3)


def test_leaves_are_named_depth_first():
    assert [name for name, _ in trees.named_leaves(nested())] == ["x", "y.0", "y.1.0"]
    assert [name for name, _ in trees.named_leaves(torch.ones(1), "output")] == ["output"]
    assert len(trees.leaves(nested())) == 3


def test_batch_size_and_slices():
    assert trees.batch_size(nested()) == 3
    part = trees.slice_batch(nested(), 1, 3)
    assert trees.batch_size(part) == 2
    assert part["y"][0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (None, "at least one tensor"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, "a has 3, b has 4"),
        (np.float32(1), "got a scalar"),
        (("text",), "got str"),
    ],
)
def test_batch_size_says_what_is_wrong(tree, words):
    with pytest.raises(TaskError, match=words):
        trees.batch_size(tree)


@pytest.mark.parametrize("convert", [trees.to_torch, trees.to_numpy])
def test_concat_undoes_slices(convert):
    whole = convert({"x": np.arange(10).reshape(5, 2), "y": (np.arange(5),)})
    joined = trees.concat([trees.slice_batch(whole, a, a + 2) for a in (0, 2, 4)])
    assert type(joined["x"]) is type(whole["x"])
    assert np.array_equal(joined["x"], whole["x"]) and np.array_equal(joined["y"][0], whole["y"][0])


@pytest.mark.parametrize("batches", [[], [{"a": np.ones(1)}, {"b": np.ones(1)}], [(np.ones(1),), (np.ones(1),) * 2]])
def test_concat_refuses_what_does_not_fit(batches):
    with pytest.raises(TaskError):
        trees.concat(batches)


def test_conversions_keep_values_and_share_memory():
    array = np.arange(4, dtype=np.float32)
    tensor = trees.to_torch(array)
    array[0] = 9
    assert tensor[0] == 9
    assert trees.to_numpy(tensor)[0] == 9
    frozen = np.arange(3)
    frozen.setflags(write=False)
    assert trees.to_torch(frozen).tolist() == [0, 1, 2]
    assert trees.to_torch(np.arange(6).reshape(2, 3).T[::-1]).tolist() == [[2, 5], [1, 4], [0, 3]]
    assert trees.to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    assert trees.to_numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


def test_call_model_follows_the_structure():
    def model(a, b=2):
        return a - b

    assert trees.call_model(model, 5) == 3
    assert trees.call_model(model, (5, 1)) == 4
    assert trees.call_model(model, {"b": 1, "a": 0}) == -1
