"""Outputs in the caller's own memory, and buffers that are used again."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

import workbench as wb
from workbench.core.errors import ConfigError, InputError
from workbench.engine.binding.buffers import MIB, BufferPool

CALLS = 10_000


def expected(variant, *arrays):
    with torch.no_grad():
        return variant.module(*(torch.from_numpy(a) for a in arrays))


class TestOut:
    def test_outputs_are_written_where_the_caller_says(self, images, backend):
        x = images.task.examples(4).numpy()
        with wb.OptimizedInferenceEngine.from_variant(images, backend=backend, batch_size=4) as engine:
            buffer = engine.output_buffers(4)
            result = engine.predict(x, out=buffer)
            assert result.result is buffer
            np.testing.assert_allclose(buffer, expected(images, x), atol=1e-4)
            other = engine.predict(x + 1).result
            assert not np.shares_memory(other, buffer)
            np.testing.assert_allclose(buffer, expected(images, x), atol=1e-4)
            np.testing.assert_allclose(other, expected(images, x + 1), atol=1e-4)

    def test_new_inputs_new_buffers_and_new_sizes_are_seen(self, images, backend):
        x = images.task.examples(12).numpy()
        with wb.OptimizedInferenceEngine.from_variant(images, backend=backend, batch_size=4) as engine:
            a, b, c = engine.output_buffers(4), engine.output_buffers(4), engine.output_buffers(3)
            for part, out in ((x[:4], a), (x[4:8], a), (x[:4], b), (x[8:11], c), (x[4:8], b)):
                np.testing.assert_allclose(engine.predict(part, out=out).result, expected(images, part), atol=1e-4)
            changed = x[:4].copy()
            for step in range(3):
                changed += step
                np.testing.assert_allclose(engine.predict(changed, out=a).result, expected(images, changed), atol=1e-4)

    def test_read_only_inputs_are_taken(self, images, backend):
        x = images.task.examples(4).numpy().copy()
        x.flags.writeable = False
        with wb.OptimizedInferenceEngine.from_variant(images, backend=backend, batch_size=4) as engine:
            found = engine.predict(x, out=engine.output_buffers(4)).result
        np.testing.assert_allclose(found, expected(images, x.copy()), atol=1e-4)

    def test_structures_are_kept(self, words, backend):
        inputs = words.task.examples(3)
        with wb.OptimizedInferenceEngine.from_variant(words, backend=backend, batch_size=3) as engine:
            buffers = engine.output_buffers(3)
            assert set(buffers) == {"logits", "more"}
            engine.predict({k: v.numpy() for k, v in inputs.items()}, out=buffers)
            with torch.no_grad():
                eager = words.module(**inputs)
            np.testing.assert_allclose(buffers["logits"], eager["logits"], atol=1e-5)
            np.testing.assert_array_equal(buffers["more"][1], eager["more"][1])

    def test_torch_tensors_are_buffers_too(self, images, backend):
        x = images.task.examples(4)
        with wb.OptimizedInferenceEngine.from_variant(images, backend=backend, batch_size=4) as engine:
            buffer = torch.full((4, 5), torch.nan)
            assert engine.predict(x, out=buffer).result is buffer
        torch.testing.assert_close(buffer, expected(images, x.numpy()), atol=1e-4, rtol=0)

    @pytest.mark.parametrize(
        ("make", "words_"),
        [
            (lambda x: np.zeros((4, 6), np.float32), "output_buffers"),
            (lambda x: np.zeros((3, 5), np.float32), "for 4 samples, got"),
            (lambda x: np.zeros((4, 5), np.float64), "float64"),
            (lambda x: np.zeros((5, 4), np.float32).T, "contiguous"),
            (lambda x: np.broadcast_to(np.float32(0), (4, 5)), "contiguous and writable"),
            (lambda x: x.reshape(-1)[:20].reshape(4, 5), "shares memory"),
            (lambda x: [[0.0]], "numpy array or a torch tensor"),
            (lambda x: torch.zeros(4, 5, device="meta"), "on the CPU"),
        ],
    )
    def test_a_buffer_that_does_not_fit_is_refused(self, images, make, words_):
        x = images.task.examples(4).numpy().copy()
        before = x.copy()
        with (
            wb.OptimizedInferenceEngine.from_variant(images, backend="onnxruntime", batch_size=4) as engine,
            pytest.raises(InputError, match=words_),
        ):
            engine.predict(x, out=make(x))
        np.testing.assert_array_equal(x, before)

    @pytest.mark.parametrize("out", [{}, {"logits": None}, [1], {"logits": 1, "other": 2}, {"logits": 1, "more": 2}])
    def test_another_structure_is_refused(self, words, out):
        inputs = {k: v.numpy() for k, v in words.task.examples(3).items()}
        with (
            wb.OptimizedInferenceEngine.from_variant(words, backend="onnxruntime") as engine,
            pytest.raises(InputError, match="structure of the outputs"),
        ):
            engine.predict(inputs, out=out)

    def test_sizes_are_checked(self, images):
        with (
            wb.OptimizedInferenceEngine.from_variant(images, backend="onnxruntime") as engine,
            pytest.raises(ConfigError, match="at least 1"),
        ):
            engine.output_buffers(0)


class TestMemory:
    @pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
    @pytest.mark.slow
    def test_with_out_no_call_allocates_a_buffer_and_none_is_lost(self, wide, name):
        """The input is 64 KiB and the output as much: any copy of either would be seen."""
        variant, x = wide
        with wb.OptimizedInferenceEngine.from_variant(variant, backend=name, batch_size=64, threads=1) as engine:
            buffer = engine.output_buffers(64)
            assert buffer.nbytes == x.nbytes == 65536
            for _ in range(50):
                engine.predict(x, out=buffer)
            gc.collect()
            tracemalloc.start()
            try:
                engine.predict(x, out=buffer)
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                engine.predict(x, out=buffer)
                after, peak = tracemalloc.get_traced_memory()
                # A buffer of 1 KiB beside the small objects of a call would show.
                assert peak - before < 3 * 1024
                for _ in range(CALLS):
                    engine.predict(x, out=buffer)
                grown = tracemalloc.get_traced_memory()[0] - after
            finally:
                tracemalloc.stop()
            assert grown <= 64 * 1024
            np.testing.assert_allclose(buffer, expected(variant, x), atol=1e-4)

    def test_without_out_the_same_measure_sees_the_outputs(self, wide):
        variant, x = wide
        with wb.OptimizedInferenceEngine.from_variant(variant, backend="openvino", batch_size=64) as engine:
            engine.predict(x)
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                engine.predict(x)
                assert tracemalloc.get_traced_memory()[1] - before > 60_000
            finally:
                tracemalloc.stop()

    def test_joined_calls_use_their_buffers_again(self, images):
        x = images.task.examples(4).numpy()
        with wb.OptimizedInferenceEngine.from_variant(images, backend="onnxruntime", batch_size=4) as engine:
            for _ in range(5):
                results = engine.predict_batch([x[:1], x[1:3], x[3:]])
            joined = np.concatenate([r.result for r in results])
            np.testing.assert_allclose(joined, expected(images, x), atol=1e-4)
            assert (engine.buffers.hits, engine.buffers.misses) == (4, 1)
            assert engine.buffers.lent_mib == 0 and "80% of 5" in str(engine.buffers)

    def test_no_limit_keeps_nothing(self, images):
        x = images.task.examples(4).numpy()
        with wb.OptimizedInferenceEngine.from_variant(images, backend="onnxruntime", pool_limit_mib=0.0) as engine:
            for _ in range(3):
                engine.predict_batch([x[:2], x[2:]])
            assert engine.buffers.kept_mib == 0 and engine.buffers.dropped == 3


class TestPool:
    @given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=60))
    def test_what_is_lent_is_nobody_elses_and_what_is_kept_stays_within_the_limit(self, steps):
        pool = BufferPool(limit_mib=100 / MIB)
        lent = []
        for size, give in steps:
            if give and lent:
                pool.give(lent.pop(size % len(lent)))
            else:
                lent.append(pool.take((size,), "uint8"))
            state = pool.statistics
            assert state.kept_mib <= 100 / MIB
            assert round(state.lent_mib * MIB) == sum(a.nbytes for a in lent)
            assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(lent, 2))

    def test_what_was_not_asked_for_the_longest_goes_first(self):
        pool = BufferPool(limit_mib=8 / MIB)
        for size in (4, 3, 4):
            pool.give(pool.take((size,), "uint8"))
        pool.give(pool.take((2,), "uint8"))
        assert pool.statistics.dropped == 1
        misses = pool.statistics.misses
        pool.take((4,), "uint8")
        assert pool.statistics.misses == misses
        pool.take((3,), "uint8")
        assert pool.statistics.misses == misses + 1

    def test_threads_may_share_it(self):
        pool = BufferPool(limit_mib=1)

        def work(value):
            for _ in range(300):
                buffer = pool.take((64,), "int64")
                buffer[:] = value
                assert (buffer == value).all()
                pool.give(buffer)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(8)))
        assert pool.statistics.lent_mib == 0 and pool.statistics.misses <= 4


class TestOpenShapes:
    @pytest.fixture
    def lengths(self, tmp_path):
        """Return an ONNX file that takes sequences of any length: it doubles them."""
        from onnx import TensorProto, helper, save

        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", 3]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        save(model, tmp_path / "double.onnx")
        return wb.InferenceConfig(model_path=str(tmp_path / "double.onnx"), backend="onnxruntime", batch_size=4)

    def test_items_of_one_length_run_together_and_all_come_back_in_order(self, lengths):
        generator = np.random.default_rng(0)
        items = [generator.random((1 + i % 2, 4 + i % 3, 3), dtype=np.float32) for i in range(9)]
        with wb.OptimizedInferenceEngine(lengths) as engine:
            for results in (engine.predict_batch(items), list(engine.stream(items))):
                for item, result in zip(items, results, strict=True):
                    np.testing.assert_array_equal(result.result, item * 2)

    def test_buffers_must_be_the_callers_own(self, lengths):
        x = np.ones((2, 5, 3), np.float32)
        with wb.OptimizedInferenceEngine(lengths) as engine:
            with pytest.raises(InputError, match="depends on the input"):
                engine.output_buffers(2)
            out = np.empty_like(x)
            np.testing.assert_array_equal(engine.predict(x, out=out).result, x * 2)
