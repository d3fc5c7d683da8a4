from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from workbench.core.errors import ArtifactError
from workbench.export.io import (
    IOSpec,
    TensorSpec,
    describe_tree,
    input_kind,
    input_leaves,
    rebuild_inputs,
    tree_builder,
)

LEAF = st.integers(0, 9).map(np.array)
TREES = st.recursive(
    LEAF | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(TREES)
def test_a_tree_is_built_again_from_its_description_and_leaves(tree):
    description, found = describe_tree(tree, lambda node: isinstance(node, np.ndarray))
    stored = json.loads(json.dumps(description))
    assert tree_builder(stored)([leaf for _, leaf in found]) == tree


def test_leaves_are_named_by_their_path():
    _, found = describe_tree({"logits": 1, "aux": (2, [3])}, lambda node: isinstance(node, int))
    assert [name for name, _ in found] == ["logits", "aux_0", "aux_1_0"]
    assert [name for name, _ in describe_tree(5, lambda node: True)[1]] == ["output"]
    assert [name for name, _ in describe_tree((5, 6), lambda node: isinstance(node, int))[1]] == [
        "output_0",
        "output_1",
    ]


def test_something_that_is_no_tensor_is_named():
    with pytest.raises(TypeError, match="count is a str"):
        describe_tree({"count": "3"}, lambda node: isinstance(node, int))


@pytest.mark.parametrize(("inputs", "kind"), [(1, "tensor"), ((1, 2), "tuple"), ({"b": 1, "a": 2}, "dict")])
def test_inputs_go_flat_and_back(inputs, kind):
    assert input_kind(inputs) == kind
    names = list(inputs) if kind == "dict" else ["x", "y"]
    assert rebuild_inputs(kind, names, input_leaves(inputs)) == inputs


def test_the_description_survives_json(tmp_path):
    spec = IOSpec(
        kind="dict",
        inputs=(TensorSpec("image", "float32", (3, None)), TensorSpec("mask", "int64", ())),
        outputs=(TensorSpec("logits", "float32", (5,)),),
        output_tree={"leaf": 0},
        batch=4,
    )
    path = tmp_path / "io.json"
    path.write_text(json.dumps(spec.to_dict()))
    assert IOSpec.read(path) == spec
    assert not spec.dynamic_batch
    assert spec.describe_inputs() == "a dict {image: float32 [batch, 3, any]; mask: int64 [batch]}"


@pytest.mark.parametrize("content", ["", "[]", '{"kind": "tensor"}', '{"kind": "set"}'])
def test_a_damaged_description_is_refused(tmp_path, content):
    path = tmp_path / "io.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=r"io\.json") as caught:
        IOSpec.read(path)
    assert str(caught.value).count("does not describe") == 1


def test_an_unknown_node_is_refused():
    with pytest.raises(ArtifactError, match="set"):
        tree_builder({"set": []})
