"""Calls that run at once: how many are let in, that they are independent, and what ends them."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from workbench.core.errors import ConfigError, EngineError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine
from workbench.engine.backends.openvino.backend import streams_note
from workbench.engine.calls.parallel import CallLimiter

Engine = OptimizedInferenceEngine
SOON = 20.0


@pytest.fixture
def engine(images):
    with Engine.from_variant(images, backend="openvino", batch_size=4, threads=2, streams=2) as engine:
        if engine.parallel_calls < 2:
            pytest.skip("OpenVINO opens no second stream here")
        yield engine


def expected(images, x):
    with torch.no_grad():
        return images.module(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_gate_lets_so_many_in_and_one_alone(width):
    gate, inside, most, alone = CallLimiter(width), [], [], []

    def work(_):
        for _ in range(20):
            with gate:
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    def close(_):
        with gate.exclusive():
            alone.append(len(inside))

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(work, None) for _ in range(6)] + [pool.submit(close, None) for _ in range(2)]
        for job in jobs:
            job.result(SOON)
    assert max(most) == width
    assert alone == [0, 0]


@pytest.mark.cores
def test_calls_of_several_threads_overlap(engine, images, monkeypatch):
    barrier, run = threading.Barrier(2), engine.session.model.run
    monkeypatch.setattr(engine.session.model, "run", lambda arrays: (barrier.wait(SOON), run(arrays))[1])
    x = images.task.examples(4).numpy()
    with ThreadPoolExecutor(2) as pool:
        for result in pool.map(engine.predict, [x, x]):
            np.testing.assert_allclose(result.result, expected(images, x), atol=1e-5)
    assert len(engine.predict_batch([x, x])) == 2
    awaited = asyncio.run(_both(engine, x))
    assert len(awaited) == 2


async def _both(engine, x):
    return await asyncio.gather(engine.apredict(x), engine.apredict(x))


@pytest.mark.cores
def test_many_threads_get_their_own_results_at_any_batch_size(engine, images):
    x = images.task.examples(20).numpy()
    items = [np.ascontiguousarray(x[i % 17 : i % 17 + 1 + i % 4]) for i in range(120)]

    def work(item):
        into = engine.output_buffers(len(item))
        return engine.predict(item).result, engine.predict(item, out=into).result.copy()

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(work, items))
    for item, (plain, into) in zip(items, found, strict=True):
        np.testing.assert_allclose(plain, expected(images, item), atol=1e-5)
        np.testing.assert_allclose(into, expected(images, item), atol=1e-5)


@pytest.mark.cores
def test_predict_batch_keeps_the_order_and_counts_each_call_once(engine, images):
    x = images.task.examples(20).numpy()
    items = [np.ascontiguousarray(part) for part in np.split(x, [3, 4, 11])]
    results = engine.predict_batch(items)
    for item, result in zip(items, results, strict=True):
        np.testing.assert_allclose(result.result, expected(images, item), atol=1e-5)
        assert result.metrics.batch_size == len(item)
        assert result.metrics.compute_ms > 0 and 0 <= result.metrics.queue_ms <= result.metrics.total_ms


@pytest.mark.cores
def test_a_batcher_runs_as_many_calls_at_once(engine, images, monkeypatch):
    barrier, run = threading.Barrier(2), engine.session.model.run
    monkeypatch.setattr(engine.session.model, "run", lambda arrays: (barrier.wait(SOON), run(arrays))[1])
    x = images.task.examples(8).numpy()
    with engine.batcher(batch_size=4, max_wait_ms=None) as batcher:
        futures = [batcher.submit(np.ascontiguousarray(x[i : i + 1])) for i in range(8)]
        found = np.concatenate([future.result(SOON).result for future in futures])
    np.testing.assert_allclose(found, expected(images, x), atol=1e-5)


@pytest.mark.cores
def test_a_stream_runs_as_many_calls_at_once(engine, images, monkeypatch):
    barrier, run = threading.Barrier(2), engine.session.model.run
    monkeypatch.setattr(engine.session.model, "run", lambda arrays: (barrier.wait(SOON), run(arrays))[1])
    x = images.task.examples(16).numpy()
    found = [result.result for result in engine.stream(np.split(x, 4))]
    np.testing.assert_allclose(np.concatenate(found), expected(images, x), atol=1e-5)


@pytest.mark.cores
def test_what_one_worker_leaves_in_the_line_another_takes_in_time(engine, images, monkeypatch):
    gate, run, sizes = threading.Event(), engine.session.model.run, []

    def wait_for_full(arrays):
        sizes.append(len(arrays[0]))
        if len(arrays[0]) == 3 and len(sizes) == 1:
            gate.wait(SOON)
        return run(arrays)

    monkeypatch.setattr(engine.session.model, "run", wait_for_full)
    x = images.task.examples(3).numpy()
    with engine.batcher(batch_size=4, max_wait_ms=50.0) as batcher:
        first, second = batcher.submit(x), batcher.submit(x)  # three and three: one call takes the first alone
        assert second.result(SOON).result.shape == (3, 5)  # while that one still runs
        assert not first.done()
        gate.set()
        first.result(SOON)
    assert sizes == [3, 3]


@pytest.mark.cores
def test_one_call_that_fails_is_told_and_leaves_none_running(engine, images, monkeypatch):
    run, running, calls = engine.session.model.run, [], iter(range(100))

    def sometimes(arrays):
        number = next(calls)
        running.append(number)
        time.sleep(0.02)
        running.remove(number)
        if number == 1:
            raise RuntimeError("no memory")
        return run(arrays)

    monkeypatch.setattr(engine.session.model, "run", sometimes)
    x = images.task.examples(4).numpy()
    with pytest.raises(EngineError, match="no memory"):
        engine.predict_batch([x] * 8)
    assert running == []
    assert len(engine.predict_batch([x] * 3)) == 3


def test_dispose_waits_for_the_calls_that_run_and_tells_those_that_wait(images):
    engine = Engine.from_variant(images, backend="openvino", batch_size=4, threads=2, streams=2)
    x = images.task.examples(4).numpy()
    ended = []

    def work(_):
        try:
            while True:
                engine.predict(x)
        except EngineError as error:
            ended.append(str(error))

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(work, None) for _ in range(4)]
        time.sleep(0.2)
        engine.dispose()
        for job in jobs:
            job.result(SOON)
    assert len(ended) == 4 and all("disposed" in words for words in ended)


def test_streams_are_said_and_none_is_as_it_was(images):
    with Engine.from_variant(images, backend="openvino", threads=2, streams=1) as engine:
        assert engine.parallel_calls == 1
        assert any(note.startswith("streams=1: 1 call at once, on all threads (2)") for note in engine.notes)
    assert streams_note(2, 2, 8).startswith("streams=2: 2 calls at once, which share the threads (8); a call next to")
    assert (
        streams_note(100, 1, 1)
        == "streams=100: OpenVINO opens 1 of them for 1 thread: 1 call at once, on all threads (1)"
    )
    with Engine.from_variant(images, backend="openvino", threads=2, streams=100) as engine:
        opened = engine.parallel_calls
        said = f"streams=100: OpenVINO opens {opened} of them for 2 threads: {opened} call"
        assert opened < 100 and any(note.startswith(said) for note in engine.notes)
    for backend in ("torch-eager", "onnxruntime", "openvino"):
        with Engine.from_variant(images, backend=backend) as engine:
            assert engine.parallel_calls == 1 and not any("streams" in note for note in engine.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "onnxruntime", "streams": 2}, "streams=2 has no effect: it is for the backend openvino"),
        ({"candidates": ("torch-eager",), "streams": 2}, "not for torch-eager"),
        ({"backend": "openvino", "streams": 0}, "streams must be at least 1"),
        ({"backend": "openvino", "streams": "auto"}, "streams must be int or None"),
    ],
)
def test_streams_that_cannot_work_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        InferenceConfig(model_path="m.onnx", **options)
