"""The sizes of tables in which a graph looks its inputs up, also in graphs that no runtime would take."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.export.io import IOSpec, TensorSpec
from workbench.export.onnx_graph import with_table_sizes

IO = IOSpec("tensor", (TensorSpec("ids", "int64", (5,)),), (), {"leaf": 0})


def graph(*nodes: onnx.NodeProto, table: tuple[int, ...] = (20, 8)) -> onnx.GraphProto:
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 5])]
    return helper.make_graph(list(nodes), "g", inputs, [], [numpy_helper.from_array(np.zeros(table, np.float32), "w")])


def size(*nodes: onnx.NodeProto, table: tuple[int, ...] = (20, 8)) -> int | None:
    return with_table_sizes(IO, graph(*nodes, table=table)).inputs[0].below


def test_a_table_is_found_behind_casts_and_reshapes_and_the_smallest_counts():
    cast = helper.make_node("Cast", ["ids"], ["short"], to=TensorProto.INT32)
    assert size(cast, helper.make_node("Gather", ["w", "short"], ["y"])) == 20
    both = [helper.make_node("Gather", ["w", "ids"], [f"y{axis}"], axis=axis) for axis in (0, 1)]
    assert size(*both) == 8
    assert size(helper.make_node("Gather", ["w", "ids"], ["y"], axis=-2)) == 20


def test_values_that_are_worked_out_and_lists_of_numbers_set_no_limit():
    mod = helper.make_node("Mod", ["ids", "k"], ["small"])
    assert size(mod, helper.make_node("Gather", ["w", "small"], ["y"])) is None
    assert size(helper.make_node("Gather", ["w", "ids"], ["y"]), table=(20,)) is None


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Gather", ["w", "ids"], ["y"], axis=99),
        helper.make_node("Gather", ["w", "ids"], ["y"], axis=-3),
        helper.make_node("Gather", ["w"], ["y"]),
        helper.make_node("Gather", [], ["y"]),
        helper.make_node("Cast", ["ids"], []),
    ],
)
def test_a_broken_node_sets_no_limit(node):
    assert size(node) is None
