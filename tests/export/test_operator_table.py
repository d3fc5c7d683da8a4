"""The table of ONNX operators is read once, and an export's own translations stay its own."""

from __future__ import annotations

import torch
from torch.onnx._internal.exporter import _registration

from workbench.export import operator_table
from workbench.export.onnx import export_onnx


def test_exports_share_the_operators_and_not_what_they_add(tmp_path):
    export_onnx(torch.nn.ReLU(), torch.rand(2, 3), tmp_path / "a.onnx", names=["x"])
    one, other = (_registration.ONNXRegistry.from_torchlib() for _ in range(2))
    assert one.functions == other.functions and len(one.functions) > 100
    target = next(iter(one.functions))
    one.functions[target].clear()
    one.functions["own"] = []
    assert other.functions[target] and "own" not in _registration.ONNXRegistry.from_torchlib().functions
    assert one.opset_version == other.opset_version
    assert _registration.ONNXRegistry.from_torchlib(opset_version=20).opset_version == 20


def test_another_torch_is_left_alone(monkeypatch):
    monkeypatch.delattr(_registration.ONNXRegistry, "from_torchlib")
    operator_table.keep_operator_table.__wrapped__()
    assert not hasattr(_registration.ONNXRegistry, "from_torchlib")


def test_the_table_is_read_again_after_operators_were_registered(monkeypatch):
    operator_table.keep_operator_table()

    def entries():
        return [meta for metas in _registration.ONNXRegistry.from_torchlib().functions.values() for meta in metas]

    one, same = entries(), entries()
    assert all(a is b for a, b in zip(one, same, strict=True))
    monkeypatch.setattr(operator_table, "registered_operators", lambda: -1)
    assert not all(a is b for a, b in zip(one, entries(), strict=True))
