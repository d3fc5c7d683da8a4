"""The flush switch of a thread, held against what arithmetic gives."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from workbench.engine.process.thread_options import can_flush, flushed, flushing, set_flushing

pytestmark = pytest.mark.skipif(not can_flush(), reason="needs Linux on x86-64 or 64-bit Arm")
TINY = np.full(64, 1e-40, np.float32)


def computed() -> bool:
    """Return whether this thread computes a denormal product; told by its bits, since comparisons flush too."""
    return bool((TINY * np.float32(0.5)).view(np.int32).any())


def test_the_switch_does_what_it_says_and_is_put_back() -> None:
    assert computed() and not flushing()
    with flushed(True):
        assert flushing() and not computed()
        with flushed(False):
            assert computed()
        assert not computed()
    assert computed() and not flushing()


def test_what_a_library_switched_is_put_back_too() -> None:
    with flushed(None):
        assert set_flushing(True)
    assert computed()
    with pytest.raises(KeyError), flushed(True):
        raise KeyError
    assert computed()


def test_a_call_flushes_on_its_own_thread_only() -> None:
    seen = []
    worker = threading.Thread(target=lambda: seen.append(computed()))

    @flushed(True)
    def inside(more: int) -> tuple[bool, int]:
        return computed(), more

    assert inside(more=3) == (False, 3)
    with flushed(True):
        pass
    worker.start()
    worker.join()
    assert seen == [True] and computed()


def test_a_platform_without_the_switch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.engine.process.thread_options._library", lambda: None)
    assert not can_flush() and not set_flushing(True) and not flushing()
    with flushed(True):
        assert not flushing()
