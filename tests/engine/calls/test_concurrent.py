"""Calls that overlap: batches across threads, streams, awaited calls; results against torch on the same inputs."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import workbench as wb
from workbench.core.errors import ConfigError, EngineError, InputError
from workbench.engine.calls.session import CLOSED

SOON = 20.0
"""Seconds after which a test that waits for another thread gives up."""


@pytest.fixture(scope="module")
def engine(images):
    with wb.OptimizedInferenceEngine.from_variant(images, backend="onnxruntime", batch_size=4) as engine:
        yield engine


@pytest.fixture
def calls(engine, monkeypatch):
    """Return the batch sizes of the runtime's calls."""
    sizes, run = [], engine.session.model.run
    monkeypatch.setattr(engine.session.model, "run", lambda arrays: (sizes.append(len(arrays[0])), run(arrays))[1])
    return sizes


def samples(images, *sizes):
    x = images.task.examples(sum(sizes)).numpy()
    return np.split(x, np.cumsum(sizes)[:-1])


def expected(images, x):
    with torch.no_grad():
        return images.module(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def check(images, items, results):
    assert len(items) == len(results)
    for item, result in zip(items, results, strict=True):
        np.testing.assert_allclose(result.result, expected(images, item), atol=1e-5)
        assert result.metrics.batch_size == len(item)


class TestBatcher:
    def test_threads_share_calls_and_get_their_own_results(self, engine, images, calls):
        items = samples(images, *[1] * 12)
        with engine.batcher(batch_size=4, max_wait_ms=None) as batcher, ThreadPoolExecutor(12) as pool:
            results = list(pool.map(batcher.predict, items))
        check(images, items, results)
        assert calls == [4, 4, 4]

    def test_a_lone_sample_is_not_kept_waiting(self, engine, images, calls):
        (item,) = samples(images, 1)
        with engine.batcher(batch_size=4, max_wait_ms=5.0) as batcher:
            result = batcher.submit(item).result(SOON)
        check(images, [item], [result])
        assert calls == [1]
        assert result.metrics.queue_ms >= 5.0 * 0.9

    def test_items_of_any_size_stay_whole_where_they_fit(self, engine, images, calls):
        items = samples(images, 3, 2, 2, 1, 6)
        with engine.batcher(batch_size=4, max_wait_ms=None) as batcher:
            futures = [batcher.submit(item) for item in items]
        check(images, items, [future.result(0) for future in futures])
        assert sum(calls) == 14 and max(calls) <= 4

    def test_it_says_what_it_is(self, engine):
        with engine.batcher(batch_size=4) as batcher:
            assert repr(batcher) == "Batcher(batch_size=4, max_wait_ms=2.0, pending=16, open)"
        assert repr(batcher).endswith("closed)")

    def test_one_bad_input_is_refused_where_it_is_brought(self, engine, images):
        with engine.batcher(batch_size=4) as batcher:
            with pytest.raises(InputError, match="shape"):
                batcher.submit(np.zeros((1, 3, 2, 2), np.float32))
            (item,) = samples(images, 1)
            check(images, [item], [batcher.predict(item)])

    def test_a_runtime_that_fails_is_told_to_all_who_asked_and_the_next_call_goes_on(self, engine, images, monkeypatch):
        run, broken = engine.session.model.run, [True]

        def sometimes(arrays):
            if broken.pop():
                raise RuntimeError("no memory")
            broken.append(False)
            return run(arrays)

        monkeypatch.setattr(engine.session.model, "run", sometimes)
        items = samples(images, 2, 2, 4)
        with engine.batcher(batch_size=4, max_wait_ms=None) as batcher:
            first, second = batcher.submit(items[0]), batcher.submit(items[1])
            for future in (first, second):
                with pytest.raises(EngineError, match="no memory"):
                    future.result(SOON)
            broken.append(False)
            check(images, items[2:], [batcher.submit(items[2]).result(SOON)])

    def test_one_who_brings_too_much_waits(self, engine, images, monkeypatch):
        gate, run = threading.Event(), engine.session.model.run
        monkeypatch.setattr(engine.session.model, "run", lambda arrays: (gate.wait(SOON), run(arrays))[1])
        items = samples(images, *[4] * 5)
        with engine.batcher(batch_size=4, max_wait_ms=0, pending=1) as batcher, ThreadPoolExecutor(1) as pool:
            brought: list = []
            job = pool.submit(lambda: [brought.append(batcher.submit(item)) for item in items])
            time.sleep(0.3)
            assert len(brought) <= 2  # one runs, one waits
            gate.set()
            job.result(SOON)
            check(images, items, [future.result(SOON) for future in brought])

    def test_what_waits_is_run_at_close_and_nothing_after(self, engine, images):
        (item,) = samples(images, 1)
        batcher = engine.batcher(batch_size=4, max_wait_ms=None)
        future = batcher.submit(item)
        batcher.close()
        batcher.close()
        check(images, [item], [future.result(0)])
        with pytest.raises(EngineError, match="closed"):
            batcher.submit(item)

    def test_what_was_cancelled_is_not_run(self, engine, images, calls):
        items = samples(images, 1, 1)
        with engine.batcher(batch_size=4, max_wait_ms=None) as batcher:
            futures = [batcher.submit(item) for item in items]
            assert futures[0].cancel()
        with pytest.raises(CancelledError):
            futures[0].result(0)
        check(images, items[1:], [futures[1].result(0)])
        assert calls == [1]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
            ({"batch_size": 2.5}, "batch_size"),
            ({"max_wait_ms": -1}, "max_wait_ms must be a number of milliseconds"),
            ({"max_wait_ms": "soon"}, "max_wait_ms"),
            ({"pending": 0}, "pending"),
            ({"batch_size": 8, "pending": 4, "max_wait_ms": None}, "waits for 8 samples"),
        ],
    )
    def test_what_cannot_work_is_refused(self, engine, options, words):
        with pytest.raises(ConfigError, match=words):
            engine.batcher(**options)


class TestStream:
    @settings(deadline=None, max_examples=20)
    @given(
        sizes=st.lists(st.integers(1, 6), max_size=12),
        batch=st.integers(1, 5),
        prefetch=st.integers(1, 3),
        wait=st.sampled_from([None, 0, 1.0]),
    )
    def test_results_come_in_order_whatever_the_sizes(self, engine, images, sizes, batch, prefetch, wait):
        items = samples(images, *sizes) if sizes else []
        found = list(engine.stream(iter(items), batch_size=batch, prefetch=prefetch, max_wait_ms=wait))
        check(images, items, found)

    def test_calls_are_full_but_for_the_last(self, engine, images, calls):
        items = samples(images, *[1] * 10)
        check(images, items, list(engine.stream(items, batch_size=4)))
        assert calls == [4, 4, 2]

    def test_every_backend_streams(self, images, backend):
        items = samples(images, *[2] * 5)
        with wb.OptimizedInferenceEngine.from_variant(images, backend=backend, batch_size=4) as engine:
            check(images, items, list(engine.stream(items)))

    def test_reading_stops_where_results_are_not_taken(self, engine, images):
        items, read = samples(images, *[1] * 64), []
        source = (read.append(1) or item for item in items)
        found = engine.stream(source, batch_size=4, prefetch=1)
        next(found)
        time.sleep(0.3)
        assert len(read) <= 20  # what waits, what runs, what is done, and one in hand
        check(images, items[1:], list(found))

    def test_items_and_results_that_take_no_time_start_no_thread(self, images, monkeypatch):
        monkeypatch.setattr(
            "workbench.engine.calls.streaming._WORTH_A_THREAD", 0.5
        )  # another process may hold the cores
        items, names = samples(images, *[16] * 6), set()
        with wb.OptimizedInferenceEngine.from_variant(images, backend="onnxruntime", batch_size=16) as engine:
            run = engine.session.model.run
            engine.session.model.run = lambda arrays: (time.sleep(0.1), run(arrays))[1]
            for _ in engine.stream(iter(items)):
                names |= {thread.name for thread in threading.enumerate()}
        assert not [name for name in names if name.startswith("workbench-stream")]

    @pytest.mark.parametrize("slow", ["source", "caller"])
    def test_a_slow_source_or_caller_gets_threads_and_loses_nothing(self, engine, images, slow):
        items, names = samples(images, *[1, 3, 2] * 8), set()

        def source():
            for item in items:
                time.sleep(0.01 if slow == "source" else 0)
                yield item

        found = []
        for result in engine.stream(source(), batch_size=4):
            time.sleep(0.01 if slow == "caller" else 0)
            names |= {thread.name for thread in threading.enumerate()}
            found.append(result)
        check(images, items, found)
        assert "workbench-stream" in names

    def test_ctrl_c_while_an_item_is_read_is_raised_at_once(self, engine, images, calls):
        (item,) = samples(images, 1)

        def source():
            yield item
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(engine.stream(source(), batch_size=4))
        assert calls == []

    def test_an_endless_source_is_left_when_the_caller_leaves(self, engine, images):
        (item,) = samples(images, 1)
        found = engine.stream(itertools.repeat(item), batch_size=4)
        check(images, [item] * 9, [next(found) for _ in range(9)])
        found.close()
        assert not [t for t in threading.enumerate() if t.name in ("workbench-stream", "workbench-batcher")]

    def test_a_bad_item_is_named_after_the_results_before_it(self, engine, images):
        items = samples(images, 1, 1, 1)
        found = engine.stream([*items, np.zeros((1, 9), np.float32), items[0]], batch_size=4)
        check(images, items, [next(found) for _ in items])
        with pytest.raises(InputError, match="Item 3: "):
            next(found)

    def test_what_the_source_raises_is_raised_in_its_place(self, engine, images):
        (item,) = samples(images, 1)

        def source():
            yield item
            raise OSError("the disk is gone")

        found = engine.stream(source())
        check(images, [item], [next(found)])
        with pytest.raises(OSError, match="the disk is gone"):
            next(found)

    def test_a_slow_source_does_not_hold_results_back_beyond_the_wait(self, engine, images):
        items, gate = samples(images, 1, 1), threading.Event()

        def source():
            yield items[0]
            gate.wait(SOON)
            yield items[1]

        found = engine.stream(source(), batch_size=4, max_wait_ms=1.0)
        check(images, items[:1], [next(found)])  # would wait for the gate otherwise
        gate.set()
        check(images, items[1:], list(found))

    @pytest.mark.parametrize(
        ("items", "options", "words"),
        [
            (3, {}, "iterable"),
            ("abc", {}, "iterable"),
            ([], {"prefetch": 0}, "prefetch"),
            ([], {"batch_size": 0}, "batch_size"),
            ([], {"max_wait_ms": True}, "max_wait_ms"),
        ],
    )
    def test_arguments_are_checked_at_once(self, engine, items, options, words):
        with pytest.raises((ConfigError, InputError), match=words):
            engine.stream(items, **options)

    def test_a_stream_that_is_never_asked_starts_nothing(self, engine, images):
        before = threading.active_count()
        engine.stream(samples(images, 1))
        assert threading.active_count() == before


class TestAwaited:
    def test_awaited_calls_give_torchs_results_and_leave_the_loop_free(self, images, backend):
        items = samples(images, 1, 2, 3)

        async def work(engine):
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticking = asyncio.create_task(tick())
            results = await asyncio.gather(*map(engine.apredict, items))
            ticking.cancel()
            return results, ticks

        with wb.OptimizedInferenceEngine.from_variant(images, backend=backend) as engine:
            results, ticks = asyncio.run(work(engine))
        check(images, items, results)
        assert ticks > 1

    def test_a_bad_input_is_raised_where_it_is_awaited(self, engine):
        with pytest.raises(InputError, match="was given a str"):
            asyncio.run(engine.apredict("x"))

    def test_dispose_ends_its_thread(self, images):
        with wb.OptimizedInferenceEngine.from_variant(images, backend="onnxruntime") as engine:
            asyncio.run(engine.apredict(images.task.examples(1)))
        end = time.monotonic() + SOON
        while any(t.name.startswith("workbench-engine") for t in threading.enumerate()):
            assert time.monotonic() < end
            time.sleep(0.01)
        with pytest.raises(EngineError, match="disposed"):
            asyncio.run(engine.apredict(images.task.examples(1)))

    def test_dispose_tells_those_who_wait_and_a_cancelled_task_stays_cancelled(self, images, monkeypatch):
        begun, go_on = threading.Event(), threading.Event()

        async def work(engine):
            x = images.task.examples(1)
            tasks = [asyncio.create_task(engine.apredict(x)) for _ in range(6)]
            while not begun.is_set():
                await asyncio.sleep(0.001)
            tasks[-1].cancel()
            await asyncio.sleep(0)
            closing = asyncio.create_task(asyncio.to_thread(engine.dispose))
            await asyncio.sleep(0.02)
            drop()  # as dispose does it at its end, while all the others still wait
            go_on.set()
            await closing
            return await asyncio.gather(*tasks, return_exceptions=True)

        with wb.OptimizedInferenceEngine.from_variant(images, backend="onnxruntime") as engine:
            run, drop = engine.session.model.run, engine._awaited.close
            slow = lambda arrays: (begun.set(), go_on.wait(SOON), run(arrays))[2]  # noqa: E731
            monkeypatch.setattr(engine.session.model, "run", slow)
            first, *waited, cancelled = asyncio.run(work(engine))
        assert first.metrics.batch_size == 1
        assert [(type(error), str(error)) for error in waited] == [(EngineError, CLOSED)] * 4
        assert isinstance(cancelled, asyncio.CancelledError)


class TestFinite:
    def test_nan_is_refused_where_that_is_asked_for(self, images):
        x = images.task.examples(3).clone()
        x[1, 0, 0, 0] = float("nan")
        options = {"backend": "onnxruntime", "check_finite": True}
        with wb.OptimizedInferenceEngine.from_variant(images, **options) as engine:
            engine.predict(images.task.examples(3))
            with pytest.raises(InputError, match="NaN or infinity in 1 of 3 samples, first in sample 1"):
                engine.predict(x)

    def test_it_goes_through_otherwise(self, engine, images):
        x = images.task.examples(2).clone()
        x[0] = float("inf")
        assert not bool(torch.isfinite(engine.predict(x).result[0]).all())
