"""Out of memory: batches are halved until they fit, with injected errors."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from engine_models import FixedBatch, make_variant
from fake_cuda import FakeCuda, give_pipe
from hypothesis import given, strategies as st

from workbench.core.errors import EngineError
from workbench.engine import OptimizedInferenceEngine
from workbench.engine.backends.oom_backoff import OomBackoffSession, memory_reason
from workbench.engine.backends.torch.eager import EagerSession

Engine = OptimizedInferenceEngine
ORT = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Expand node. Name:'' Status Message: "
    "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal("
    "size_t, bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 1125899906842624\n"
)
OPENVINO = (
    "Exception from src/inference/src/cpp/infer_request.cpp:224:\n"
    "[CPU] Multiply node with name 'big' Check 'ptr' failed at src/plugins/intel_cpu/src/cpu_memory.cpp:257:\n"
    "Failed to allocate 34359738352 bytes of memory\n"
)


class Small:
    """A session that has memory for so many samples, and remembers what it was given."""

    device, threads, placement, notes = "cuda:0", 1, "cuda:0", ("says so",)

    def __init__(self, fits, error=lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")):
        self.fits, self.error, self.sizes, self.freed = fits, error, [], 0

    def run(self, inputs):
        self.sizes.append(len(inputs[0]))
        if len(inputs[0]) > self.fits:
            raise self.error()
        return [inputs[0] * 2, inputs[0][:, 0] + inputs[-1][:, 0]], 0.25

    def free_memory(self):
        self.freed += 1

    def close(self):
        pass


class SmallInto(Small):
    def run_into(self, inputs, outputs):
        for target, output in zip(outputs, self.run(inputs)[0], strict=True):
            np.copyto(target, output)
        return 0.25


def rows(count, width=3):
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def guarded(session, *, fixed=False):
    return OomBackoffSession(session, backend="torch-eager", fixed=fixed)


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_any_batch_comes_back_whole_whatever_fits(size, fits, into):
    x, y = rows(size), rows(size) + 1
    session = guarded((SmallInto if into else Small)(fits))
    for _ in range(2):
        if into:
            outputs = [np.zeros((size, 3), np.float32), np.zeros(size, np.float32)]
            copied = session.run_into([x, y], outputs)
        else:
            outputs, copied = session.run([x, y])
        np.testing.assert_array_equal(outputs[0], x * 2)
        np.testing.assert_array_equal(outputs[1], x[:, 0] + y[:, 0])
    assert copied >= 0.25 * -(-size // fits)


def test_the_batch_is_halved_and_the_size_that_fits_is_used_from_the_start():
    small = Small(6)
    session = guarded(small)
    session.run([rows(32)])
    assert small.sizes == [32, 16, 8, 4, 4, 4, 4, 4, 4, 4, 4] and small.freed == 3
    small.sizes.clear()
    session.run([rows(32)])
    session.run([rows(5)])
    session.run([rows(3)])
    assert small.sizes == [4] * 8 + [4, 1] + [3]
    (kept, note) = session.notes
    assert kept == "says so"
    assert note == (
        "torch-eager ran out of memory with 32 samples on cuda:0 (out of memory. Tried to allocate 2.00 GiB.): larger "
        "batches run in parts of 4"
    )


def test_threads_that_run_out_together_agree_on_the_smallest_size():
    small, meet = Small(4), threading.Barrier(4)
    session, found = guarded(small), []
    run = small.run

    def together(inputs):
        if len(inputs[0]) > 16:
            meet.wait(30)
        return run(inputs)

    small.run = together
    batches = [rows(size) for size in (40, 32, 24, 20)]
    threads = [threading.Thread(target=lambda x=x: found.append((x, session.run([x])[0][0]))) for x in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4
    for x, output in found:
        np.testing.assert_array_equal(output, x * 2)
    small.sizes.clear()
    session.run([rows(40)])
    assert max(small.sizes) <= 4
    assert len(session.notes) == 2


def test_each_shape_of_a_sample_has_a_limit_of_its_own():
    small = Small(4)
    session = guarded(small)
    session.run([rows(8, 2)])
    small.fits, small.sizes = 100, []
    session.run([rows(8, 2)])
    session.run([rows(8, 5)])
    assert small.sizes == [4, 4, 8]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), "out of memory. Tried"),
        (torch.OutOfMemoryError("no words"), "no words"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "out of memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            "STATUS_ALLOC_FAILED when",
        ),
        (RuntimeError("std::bad_alloc"), "bad_alloc"),
        (RuntimeError("Exception from x.cpp:1:\n[GPU] CL_OUT_OF_RESOURCES, error code: -5"), "CL_OUT_OF_RESOURCES"),
        (RuntimeError("[GPU] Exceeded max size of memory object allocation: requested 5"), "Exceeded max size"),
        (RuntimeError(ORT), "Failed to allocate memory for requested buffer of size 1125899906842624"),
        (RuntimeError(OPENVINO), "Failed to allocate 34359738352 bytes of memory"),
        (RuntimeError("BFCArena Available memory of 5 is smaller than requested bytes of 9"), "smaller than requested"),
        (MemoryError(), "MemoryError"),
        (MemoryError("Unable to allocate 8.00 PiB for an array"), "Unable to allocate 8.00 PiB"),
    ],
)
def test_what_runtimes_say_when_there_is_no_memory(error, words):
    reason = memory_reason(error)
    assert reason.startswith(words) and len(reason) <= 120
    session = guarded(Small(2, lambda: error))
    np.testing.assert_array_equal(session.run([rows(5)])[0][0], rows(5) * 2)


@pytest.mark.parametrize("text", ["shape '[4, 6]' is invalid", "CUDA error: an illegal memory access", "allocate"])
def test_other_errors_are_left_alone(text):
    assert memory_reason(RuntimeError(text)) is None
    small = Small(2, lambda: RuntimeError(text))
    with pytest.raises(RuntimeError, match=text.replace("[", ".").replace("]", ".")):
        guarded(small).run([rows(8)])
    assert small.sizes == [8] and small.freed == 0


def test_a_single_sample_that_does_not_fit_is_an_error_that_says_what_to_do():
    session = guarded(Small(0))
    with pytest.raises(EngineError, match=r"on cuda:0 with a single sample: out of memory\. .* use a smaller model"):
        session.run([rows(4)])


def test_a_fixed_batch_cannot_be_halved():
    small = Small(2)
    with pytest.raises(EngineError, match="with 4 samples, the only batch size that this model was exported for"):
        guarded(small, fixed=True).run([rows(4)])
    assert small.sizes == [4]


def starve(engine, fits, monkeypatch, error=None):
    """Let an engine's runtime have memory for so many samples; return the sizes that it is asked for."""
    inner, sizes = engine.session.model.session, []
    run, run_into = inner.run, getattr(inner, "run_into", None)

    def checked(inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > fits:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(inner, "run", lambda inputs: checked(inputs) or run(inputs))
    monkeypatch.setattr(inner, "run_into", lambda inputs, outputs: checked(inputs) or run_into(inputs, outputs))
    return sizes


def test_every_way_into_an_engine_halves_and_remembers(images, backend, monkeypatch):
    x = images.task.examples(20)
    with torch.no_grad():
        wanted = images.module(x)
    with Engine.from_variant(images, backend=backend, batch_size=16) as engine:
        sizes = starve(engine, 5, monkeypatch, RuntimeError("Failed to allocate 4096 bytes of memory"))
        first = engine.predict(x)
        torch.testing.assert_close(first.result, wanted, rtol=1e-4, atol=1e-5)
        assert first.metrics.batch_size == 20 and sizes == [20, 10, 5, 5, 5, 5]
        sizes.clear()
        out = engine.output_buffers(20)
        engine.predict(x, out=out)
        np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)
        found = engine.predict_batch(list(x.split(4)))
        torch.testing.assert_close(torch.cat([r.result for r in found]), wanted, rtol=1e-4, atol=1e-5)
        found = list(engine.stream(list(x.split(4))))
        torch.testing.assert_close(torch.cat([r.result for r in found]), wanted, rtol=1e-4, atol=1e-5)
        assert max(sizes) == 5
        (note,) = [note for note in engine.notes if "ran out of memory" in note]
        assert f"{backend} ran out of memory with 20 samples on cpu (Failed to allocate 4096 bytes" in note
        assert note.endswith("larger batches run in parts of 5")
    assert note in engine.notes


def test_an_engine_with_no_memory_at_all_says_so(images, monkeypatch):
    with Engine.from_variant(images, backend="torch-eager", batch_size=4) as engine:
        sizes = starve(engine, 0, monkeypatch)
        with pytest.raises(
            EngineError, match=r"^torch-eager ran out of memory on cpu with a single sample: out of mem"
        ):
            engine.predict(images.task.examples(4))
        assert sizes == [4, 2, 1]
        with pytest.raises(EngineError, match="with a single sample"):
            engine.predict(images.task.examples(1), out=engine.output_buffers(1))


def test_a_model_exported_for_one_batch_says_so(monkeypatch):
    variant = make_variant(FixedBatch, torch.randn(20, 6, generator=torch.Generator().manual_seed(0)))
    with Engine.from_variant(variant, backend="onnxruntime", batch_size=4) as engine:
        starve(engine, 2, monkeypatch)
        with pytest.raises(EngineError, match="4 samples, the only batch size"):
            engine.predict(variant.task.examples(4))


def test_a_batch_that_does_not_fit_while_an_engine_is_loaded_is_halved_too(images, monkeypatch):
    run = EagerSession.run

    def small(self, inputs):
        if len(inputs[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(self, inputs)

    monkeypatch.setattr(EagerSession, "run", small)
    with Engine.from_variant(images, backend="torch-eager", batch_size=8) as engine:
        assert engine.max_abs_diff < 1e-5
        assert any("with 8 samples on cpu" in note and note.endswith("parts of 2") for note in engine.notes)


def test_a_model_that_does_not_fit_is_an_engine_error(images, monkeypatch):
    def prepare(self, source, config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(EagerSession, "_prepare", prepare)
    with pytest.raises(
        EngineError, match=r"torch-eager ran out of memory while it loaded variant 'float': out of memory"
    ):
        Engine.from_variant(images, backend="torch-eager")


def test_calls_under_way_are_run_alone_where_two_do_not_fit(images, monkeypatch):
    cuda, on_device, sizes = FakeCuda(), EagerSession._on_device, []
    give_pipe(monkeypatch, cuda)

    def small(self, tensors):
        sizes.append(len(tensors[0]))
        if len(tensors[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return on_device(self, tensors)

    x = images.task.examples(20)
    with torch.no_grad():
        wanted = images.module(x)
    with Engine.from_variant(images, backend="torch-eager", batch_size=8) as engine:
        monkeypatch.setattr(EagerSession, "_on_device", small)
        for found in (engine.predict_batch([x]), list(engine.stream(list(x.split(2))))):
            torch.testing.assert_close(torch.cat([r.result for r in found]), wanted, rtol=1e-4, atol=1e-5)
            for result in found:
                assert result.metrics.compute_ms >= 0 and result.metrics.copy_ms >= 0
        assert sizes[:4] == [8, 8, 4, 2] and max(sizes[4:]) == 2 and ("empties the cache",) in cuda.log
        assert engine.session.model.pipe.pool.statistics.lent_mib == 0
