"""An engine that runs for a long time: 200,000 calls from four threads lose no memory and give right results."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch

import workbench as wb

CALLS, THREADS, KINDS = 200_000, 4, 8
WARM = 20_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_calls_from_four_threads_keep_memory_and_results(images, backend):
    x = images.task.examples(KINDS).numpy()
    inputs = [np.ascontiguousarray(x[i : i + 1]) for i in range(KINDS)]
    with torch.no_grad():
        wanted = images.module(torch.from_numpy(x)).numpy()

    with wb.OptimizedInferenceEngine.from_variant(images, backend=backend, batch_size=1, threads=1) as engine:

        def work(thread: int, calls: int) -> int:
            """Check every result, a third of them in buffers of this thread's own; return how many were right."""
            buffer = engine.output_buffers(1)
            right = 0
            for number in range(calls):
                kind = (number + thread) % KINDS
                out = buffer if number % 3 == 0 else None
                found = engine.predict(inputs[kind], out=out).result
                right += bool(np.abs(found[0] - wanted[kind]).max() < 1e-4)
            return right

        with ThreadPoolExecutor(THREADS) as threads:
            assert sum(threads.map(work, range(THREADS), [WARM // THREADS] * THREADS)) == WARM
            gc.collect()
            process = psutil.Process()
            before = process.memory_info().rss
            assert sum(threads.map(work, range(THREADS), [CALLS // THREADS] * THREADS)) == CALLS
            gc.collect()
            grown = process.memory_info().rss / before - 1
        assert grown <= 0.02
