"""The way of batches through a device, with a stand-in for torch.cuda; tests/gpu does the same on a real one."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda, give_pipe, plain_array

from workbench.core.errors import ConfigError, EngineError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine
from workbench.engine.backends.torch.cuda import GRAPHS, CudaPipe, GraphedCall
from workbench.engine.backends.torch.eager import EagerSession
from workbench.engine.calls.batch_queue import BatchQueue
from workbench.engine.precision import Precision, precision_on_cuda
from workbench.engine.process.cuda import Tf32Claim

Engine = OptimizedInferenceEngine


@pytest.fixture
def cuda():
    """Return a stand-in for torch.cuda."""
    return FakeCuda()


@pytest.fixture
def piped(monkeypatch, cuda):
    """Give torch-eager a pipe, as it has on a GPU; return the stand-in for torch.cuda."""
    give_pipe(monkeypatch, cuda)
    return cuda


def rows(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pipe_of(compute, cuda, **more):
    return CudaPipe(compute, "cpu", limit_mib=more.pop("limit_mib", 8), cuda=cuda, make=plain_array)


def test_numbers_come_back_whatever_happens_to_the_inputs_after_begin(cuda):
    pipe = pipe_of(lambda tensors: [tensors[0] * 2, tensors[0] + tensors[1]], cuda)
    a, b = rows(4, 3), rows(4, 3, seed=1)
    wanted = [a * 2, a + b]
    flight = pipe.begin([a, b])
    a.fill(0), b.fill(0)
    outputs, copied, waited = pipe.finish(flight)
    for got, want in zip(outputs, wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    assert copied >= 0 and waited >= 0


def test_a_call_computes_after_its_upload_and_the_host_waits_for_its_download(cuda):
    pipe = pipe_of(lambda tensors: cuda.log.append(("computes", cuda.streams[-1])) or [tensors[0] + 1], cuda)
    pipe.run([rows(2, 3)])
    kinds = [entry[0] for entry in cuda.log]
    assert kinds == ["marks", "waits", "marks", "computes", "marks", "marks", "host waits"]
    uploaded, waits, begun, computes, _, done, host = cuda.log
    assert waits == ("waits", begun[1], uploaded[2])
    assert uploaded[1] != begun[1] == computes[1] == done[1]
    assert host == ("host waits", done[2])


def test_the_next_upload_is_ordered_before_the_host_waits_for_the_call_before(cuda):
    pipe = pipe_of(lambda tensors: [tensors[0] * 3], cuda)
    first, second = rows(2, 3), rows(2, 3, seed=1)
    flights = [pipe.begin([first]), pipe.begin([second])]
    assert not any(kind == "host waits" for kind, *_ in cuda.log)
    np.testing.assert_array_equal(pipe.finish(flights[0])[0][0], first * 3)
    np.testing.assert_array_equal(pipe.finish(flights[1])[0][0], second * 3)


def test_pinned_memory_is_used_again_and_never_by_two_calls_at_once(cuda):
    pipe = pipe_of(lambda tensors: [tensors[0] * 3], cuda)
    one, two = pipe.begin([rows(2, 3)]), pipe.begin([rows(2, 3)])
    buffers = [*one.staged, *one.outputs, *two.staged, *two.outputs]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(buffers) for b in buffers[:i])
    pipe.finish(one), pipe.finish(two)
    for _ in range(5):
        pipe.run([rows(2, 3)])
    assert pipe.pool.statistics.misses == 4 and pipe.pool.statistics.hits == 10
    assert pipe.pool.statistics.lent_mib == 0
    pipe.close()
    assert pipe.pool.statistics.kept_mib == 0


def test_outputs_are_the_callers_and_go_where_they_are_wanted(cuda):
    pipe = pipe_of(lambda tensors: [tensors[0].t().t()[:, :1].expand(-1, 3)], cuda)
    x = rows(2, 3)
    (first,), _ = pipe.run([x])
    (second,), _ = pipe.run([x + 1])
    np.testing.assert_array_equal(first, np.repeat(x[:, :1], 3, axis=1))
    assert first.flags.c_contiguous and not np.shares_memory(first, second)
    into = [np.zeros((2, 3), np.float32)]
    outputs, _ = pipe.run([x], into)
    assert outputs is into
    np.testing.assert_array_equal(into[0], first)


def test_a_module_that_fails_leaves_nothing_lent_and_the_next_call_works(cuda):
    def compute(tensors):
        if tensors[0].isnan().any():
            raise ValueError("no numbers")
        return [tensors[0]]

    pipe = pipe_of(compute, cuda)
    with pytest.raises(ValueError, match="no numbers"):
        pipe.run([np.full((2, 3), np.nan, np.float32)])
    assert cuda.log[-1] == ("host waits", "cpu")
    assert pipe.pool.statistics.lent_mib == 0
    np.testing.assert_array_equal(pipe.run([rows(2, 3)])[0][0], rows(2, 3))


def test_every_millisecond_of_a_call_is_queue_copy_or_compute(images, piped, monkeypatch):
    x = images.task.examples(3)
    before = EagerSession._on_device
    monkeypatch.setattr(EagerSession, "_on_device", lambda self, tensors: time.sleep(0.02) or before(self, tensors))
    with Engine.from_variant(images, backend="torch-eager") as engine:
        metrics = engine.predict(x).metrics
        several = [result.metrics for result in engine.predict_batch([x, x])]
        streamed = [result.metrics for result in engine.stream([x, x, x], batch_size=3)]
    for found in (metrics, *several, *streamed):
        assert found.compute_ms >= 20 and found.copy_ms >= 0
        assert found.queue_ms + found.copy_ms + found.compute_ms == pytest.approx(found.total_ms, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_batches_and_streams_give_what_the_module_gives(images, piped, batch_size):
    x = images.task.examples(20)
    items = list(x.split([1, 4, 2, 9, 1, 3]))
    with torch.no_grad():
        wanted = [images.module(item) for item in items]
    with Engine.from_variant(images, backend="torch-eager", batch_size=batch_size) as engine:
        for found in (engine.predict_batch(items), list(engine.stream(iter(items)))):
            for result, want in zip(found, wanted, strict=True):
                torch.testing.assert_close(result.result, want, rtol=1e-4, atol=1e-5)
        pool = engine.session.model.pipe.pool
        assert pool.statistics.lent_mib == 0


def test_a_stream_begins_the_next_call_before_it_waits_for_the_one_before(images, piped):
    x = images.task.examples(12)
    with Engine.from_variant(images, backend="torch-eager", batch_size=4) as engine:
        piped.log.clear()
        assert len(engine.predict_batch([x])) == 1
        kinds = [entry[0] for entry in piped.log if entry[0] in ("waits", "host waits")]
    assert kinds == ["waits", "waits", "host waits", "waits", "host waits", "host waits"]


def test_a_stream_never_waits_for_an_input_before_it_gives_a_result(images, piped):
    x = images.task.examples(1)
    given = threading.Semaphore(1)

    def items():
        for _ in range(5):
            assert given.acquire(timeout=30), "the stream waits for an input that waits for a result"
            yield x

    with Engine.from_variant(images, backend="torch-eager") as engine:
        found = []
        for result in engine.stream(items(), prefetch=1):
            found.append(result)
            given.release()
    assert len(found) == 5


def test_a_line_says_whether_a_group_is_due():
    line = BatchQueue(size=2, wait_s=None, limit=9)
    assert not line.ready
    line.put("a", samples=1, weight=1, requested=0.0)
    assert not line.ready
    line.put("b", samples=1, weight=1, requested=0.0)
    assert line.ready and line.take() == ["a", "b"] and not line.ready
    late = BatchQueue(size=2, wait_s=0.0, limit=9)
    late.put("a", samples=1, weight=1, requested=0.0)
    assert late.ready and late.take() == ["a"] and not late.ready
    line.finish()
    assert line.ready and line.take() == []


def test_results_come_before_the_error_that_ends_a_stream(images, piped, monkeypatch):
    x = images.task.examples(1)
    with Engine.from_variant(images, backend="torch-eager") as engine:
        session = engine.session.model.session
        before, calls = session._call, []

        def call(tensors):
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("broke\nat line 3")
            return before(tensors)

        monkeypatch.setattr(session, "_call", call)
        found = []
        with pytest.raises(EngineError, match="torch-eager failed while it ran the model: broke"):
            for result in engine.stream([x] * 5):
                found.append(result)  # noqa: PERF402
        assert len(found) == 2
        assert session.pipe.pool.statistics.lent_mib == 0
        for _ in engine.stream([x] * 5):
            break  # leaves a call under way
        assert session.pipe.pool.statistics.lent_mib == 0


def test_an_engine_that_is_disposed_under_a_stream_says_so(images, piped):
    x = images.task.examples(1)
    engine = Engine.from_variant(images, backend="torch-eager")
    stream = engine.stream([x] * 50)
    next(stream)
    engine.dispose()
    with pytest.raises(EngineError, match="disposed"):
        list(stream)


class Recorder:
    """Records nothing: a replay computes again from the graph's own tensors, as a device would."""

    def __init__(self, cuda, monkeypatch):
        self.calls, self.notes, self.replays = [], [], 0
        self.graphed = GraphedCall(self.call, "cpu", note=self.notes.append, cuda=cuda)
        monkeypatch.setattr(cuda, "CUDAGraph", self.graph)

    def graph(self):
        recorder = self

        class Replaying:
            def replay(self):
                recorder.replays += 1
                (mine,) = [g for g in recorder.graphed._graphs.values() if g.graph is self]
                for output, new in zip(mine.outputs, recorder.model(mine.inputs), strict=True):
                    output.copy_(new)

        return Replaying()

    def model(self, tensors):
        return [tensors[0] * 2 + 1]

    def call(self, tensors):
        self.calls.append(len(tensors[0]))
        return self.model(tensors)


def test_a_graph_is_recorded_when_a_shape_comes_twice_and_replayed_from_then_on(cuda, monkeypatch):
    recorder = Recorder(cuda, monkeypatch)
    for seed in range(6):
        x = torch.from_numpy(rows(2, 3, seed=seed))
        (found,) = recorder.graphed([x])
        torch.testing.assert_close(found, x * 2 + 1)
    assert recorder.replays == 5 and len(recorder.calls) == 1 + 3 + 1  # plain, warm-up, recorded
    assert not recorder.notes


def test_only_so_many_shapes_are_recorded(cuda, monkeypatch):
    recorder = Recorder(cuda, monkeypatch)
    for size in range(1, GRAPHS + 3):
        for seed in range(3):
            x = torch.from_numpy(rows(size, 3, seed=seed))
            torch.testing.assert_close(recorder.graphed([x])[0], x * 2 + 1)
    assert len(recorder.graphed._graphs) == GRAPHS and recorder.replays == 2 * GRAPHS
    assert recorder.calls.count(GRAPHS + 2) == 3


def test_a_call_that_cannot_be_recorded_runs_without_and_says_so(cuda, monkeypatch):
    calls, notes = [], []

    def call(tensors):
        calls.append(len(tensors[0]))
        if cuda.recording:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return [tensors[0] - 1]

    graphed = GraphedCall(call, "cpu", note=notes.append, cuda=cuda)
    for size in (2, 2, 2, 3, 3, 3):
        x = torch.from_numpy(rows(size, 3))
        torch.testing.assert_close(graphed([x])[0], x - 1)
    (note,) = notes
    assert "cannot be recorded (operation not permitted when stream is capturing); running without graphs" in note


def test_graphs_are_for_torch_eager_on_a_gpu(images):
    for options, words in [
        ({"backend": "openvino"}, "has no effect: it is for the backend torch-eager, not for openvino"),
        ({"backend": "torch-eager", "use_gpu": False}, "has no effect on the CPU.* Set use_gpu=True"),
    ]:
        with pytest.raises(ConfigError, match=words):
            InferenceConfig(**{"use_gpu": True, "cuda_graph": True, **options})
    if torch.cuda.is_available():
        pytest.skip("the rest says what happens without a GPU, and there is one")
    with Engine.from_variant(images, backend="torch-eager", use_gpu=True, cuda_graph=True) as engine:
        assert any(note.startswith("cuda_graph=True has no effect") for note in engine.notes)


@pytest.mark.parametrize(
    ("compute", "capability", "taken", "words"),
    [
        ("float32", (7, 5), "float32", ""),
        ("float32", (8, 0), "float32", "float32 in full"),
        ("tf32", (8, 6), "tf32", "natively (compute capability 8.6)"),
        ("tf32", (7, 5), "float32", "needs compute capability 8.0, and this GPU has compute capability 7.5"),
        ("bfloat16", (9, 0), "bfloat16", "natively"),
        ("bfloat16", (7, 0), "float32", "needs compute capability 8.0"),
        ("float16", (7, 0), "float16", "natively"),
        ("float16", (6, 1), "float32", "needs compute capability 7.0"),
        ("auto", (8, 9), "bfloat16", "natively"),
        ("auto", (7, 5), "float16", "natively"),
        ("auto", (6, 1), "float32", "needs compute capability 7.0"),
    ],
)
def test_what_a_gpu_computes_in(compute, capability, taken, words):
    found = precision_on_cuda(Precision(compute), capability)
    assert found.precision == taken and words in " ".join(found.notes)
    assert precision_on_cuda(Precision(compute), capability, quantized=True).precision == "float32"


def switches():
    cudnn = torch.backends.cudnn
    modern = torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, modern


def test_the_tf32_switches_are_set_for_whoever_runs_and_put_back():
    before = switches()
    on = Tf32Claim(True)
    assert switches()[:2] == (True, True) and set(switches()[2]) == {"tf32"}
    off = Tf32Claim(False)
    assert switches()[:2] == (False, False) and "tf32" not in switches()[2]
    on.apply()
    assert switches()[:2] == (True, True)
    on.release()
    on.release()
    off.apply()
    assert switches()[:2] == (False, False)
    off.release()
    assert switches() == before


def test_switches_that_were_set_by_their_newer_names_are_put_back_too():
    before = switches()
    matmul = torch.backends.cuda.matmul
    try:
        matmul.fp32_precision = "tf32"
        claim = Tf32Claim(False)
        assert switches()[:2] == (False, False)
        claim.release()
        assert matmul.fp32_precision == "tf32" and torch.backends.cudnn.allow_tf32 == before[1]
    finally:
        matmul.allow_tf32 = before[0]
        matmul.fp32_precision = before[2][0]
    assert switches() == before
