"""Torch's workers follow one thread: they end where other threads are to run the engine, and come back when asked."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import torch
from engine_models import make_variant
from torch import nn

from workbench.engine import OptimizedInferenceEngine
from workbench.engine.process.threads import can_reach_workers, end_workers, on_workers

pytestmark = pytest.mark.skipif(
    not (can_reach_workers() and sys.platform.startswith("linux")), reason="needs Linux, and torch built with OpenMP"
)


@pytest.fixture(scope="module")
def wide():
    return make_variant(lambda: nn.Linear(512, 512), torch.rand(8, 512))


def workers() -> set[int]:
    """Return the system's numbers of the calling thread's workers, starting them where there are none."""
    found: list[int] = []
    on_workers(lambda number: found.append(threading.get_native_id()) if number else None)
    return set(found)


def alive(numbers: set[int]) -> set[int]:
    return numbers & {int(path.name) for path in Path("/proc/self/task").iterdir()}


@pytest.mark.cores
def test_workers_end_and_others_start_with_the_next_work(two_threads):
    first = workers()
    assert len(first) == 1 and alive(first) == first
    assert end_workers()
    assert not alive(first)
    assert len(workers()) == 1


@pytest.mark.cores
@pytest.mark.parametrize("ask", ["initialize", "batcher"])
def test_the_thread_that_leaves_the_calls_to_others_keeps_no_workers(wide, two_threads, ask):
    x = wide.task.examples(4)
    with OptimizedInferenceEngine.from_variant(wide, backend="torch-eager", threads=2) as engine:
        mine = workers()
        if ask == "initialize":
            engine.initialize()
        else:
            with engine.batcher(batch_size=4) as batcher:
                found = batcher.predict(x).result
            torch.testing.assert_close(found, engine.predict(x).result)
        assert not alive(mine)


@pytest.mark.cores
def test_workers_that_were_told_something_stay(wide, two_threads):
    with OptimizedInferenceEngine.from_variant(wide, backend="torch-eager", threads=2, flush_denormals=True) as engine:
        engine.predict(wide.task.examples(4))
        mine = workers()
        engine.session.release_workers()
        assert alive(mine) == mine


@pytest.mark.cores
def test_other_backends_leave_torch_alone(wide, two_threads):
    with OptimizedInferenceEngine.from_variant(wide, backend="onnxruntime", threads=2) as engine:
        mine = workers()
        engine.initialize()
        assert alive(mine) == mine
