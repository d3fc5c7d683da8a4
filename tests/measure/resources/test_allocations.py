"""Traced memory of calls."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import ConfigError, EngineError


@pytest.mark.slow
def test_the_largest_array_of_a_call_is_seen():
    found = wb.trace_allocations(lambda: np.ones(2**18, np.float32), calls=3)
    assert 1024 <= found.peak_kib < 1100 and found.left_kib < 1 and found.calls == 3


@pytest.mark.slow
def test_what_a_call_keeps_is_seen():
    kept = []
    found = wb.trace_allocations(lambda: kept.append(bytearray(64 * 1024)), calls=10)
    assert 640 <= found.left_kib < 660


def test_what_cannot_be_traced():
    with pytest.raises(ConfigError, match="call must be a function"):
        wb.trace_allocations(3)
    with pytest.raises(ConfigError, match="calls"):
        wb.trace_allocations(list, calls=0)
    tracemalloc.start()
    try:
        with pytest.raises(EngineError, match="already active"):
            wb.trace_allocations(list)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    with pytest.raises(ZeroDivisionError):
        wb.trace_allocations(lambda: 1 / 0)
    assert not tracemalloc.is_tracing()
