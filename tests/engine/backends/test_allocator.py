"""The option allocator of an engine."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.core.allocator import AllocatorState
from workbench.core.errors import ConfigError


def test_only_torchs_backends_take_it():
    assert wb.InferenceConfig(backend="torch-eager", allocator="steady").allocator == "steady"
    with pytest.raises(ConfigError, match="allocator='steady' has no effect"):
        wb.InferenceConfig(backend="openvino", allocator="steady")
    with pytest.raises(ConfigError, match="allocator"):
        wb.InferenceConfig(backend="torch-eager", allocator="jemalloc")


@pytest.mark.parametrize(("steady", "notes"), [(True, 0), (False, 1)])
def test_an_engine_asks_for_it_and_says_if_it_cannot_be(monkeypatch, steady, notes):
    asked = []

    def use() -> AllocatorState:
        asked.append(1)
        return AllocatorState("other", steady, "Only glibc on Linux can be made steady.")

    monkeypatch.setattr("workbench.engine.backends.torch.session.use_steady_allocator", use)
    variant = wb.Variant.original(wb.tasks.digits())
    load = wb.OptimizedInferenceEngine.from_variant
    with load(variant, backend="torch-eager", batch_size=2, allocator="steady") as engine:
        assert sum("allocator='steady' has no effect" in str(note) for note in engine.notes) == notes
    with load(variant, backend="torch-eager", batch_size=2):
        pass
    assert len(asked) == 1
