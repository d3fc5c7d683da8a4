"""Memory of a real CUDA device: pinned buffers, overlapping copies, limits, and what happens when it runs out."""

from __future__ import annotations

import pytest
import torch
from engine_models import make_variant
from gpu_checks import on_cpu
from torch import nn

from workbench.core.errors import EngineError
from workbench.engine import OptimizedInferenceEngine

Engine = OptimizedInferenceEngine


class Hungry(nn.Module):
    """Takes 32 MiB for each sample while it computes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x):
        return (self.linear(x).expand(-1, 1 << 23) * 1.0)[:, :1]


class Busy(nn.Module):
    """Computes for long on few inputs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.eye(2048))

    def forward(self, x):
        product = self.matrix
        for _ in range(100):
            product = product @ self.matrix
        return x * product[0, 0]


@pytest.fixture(scope="module")
def hungry():
    """Return a variant that needs 2 GiB for 64 samples."""
    return make_variant(Hungry, torch.randn(64, 1, generator=torch.Generator().manual_seed(0)))


def pipe_of(engine):
    return engine.session.model.session.pipe


def test_buffers_are_pinned_and_used_again(variants):
    variant = variants["images"]
    x = variant.task.examples(4)
    with Engine.from_variant(variant, backend="torch-eager", batch_size=4, use_gpu=True, verify=False) as engine:
        pipe = pipe_of(engine)
        flight = pipe.begin([x.numpy()])
        assert all(torch.from_numpy(array).is_pinned() for array in (*flight.staged, *flight.outputs))
        pipe.finish(flight)
        for _ in range(10):
            result = engine.predict(x).result
        torch.testing.assert_close(result, on_cpu(variant, x), rtol=1e-3, atol=1e-4)
        assert pipe.pool.statistics.misses == 2 and pipe.pool.statistics.hits == 20
        assert pipe.pool.statistics.lent_mib == 0


def test_the_next_upload_ends_while_the_call_before_computes():
    variant = make_variant(Busy, torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    x = variant.task.examples(4)
    with Engine.from_variant(variant, backend="torch-eager", batch_size=4, use_gpu=True) as engine:
        pipe = pipe_of(engine)
        engine.predict(x)
        flights = [pipe.begin([x.numpy()]), pipe.begin([2 * x.numpy()])]
        found = [pipe.finish(flight)[0][0] for flight in flights]
        assert flights[1].marks.uploaded.elapsed_time(flights[0].marks.ended) > 0
    torch.testing.assert_close(torch.from_numpy(found[0]), x)
    torch.testing.assert_close(torch.from_numpy(found[1]), 2 * x)


@pytest.mark.parametrize("graph", [False, True])
def test_streams_and_batches_come_back_in_order(variants, graph):
    variant = variants["images"]
    x = variant.task.examples(20).repeat(10, 1, 1, 1)
    wanted = on_cpu(variant, x)
    with Engine.from_variant(variant, backend="torch-eager", batch_size=8, use_gpu=True, cuda_graph=graph) as engine:
        for items in (x.split(1), x.split(3), x.split(8), x.split(30)):
            for found in (engine.stream(items), engine.predict_batch(list(items))):
                results = list(found)
                torch.testing.assert_close(torch.cat([r.result for r in results]), wanted, rtol=1e-3, atol=1e-4)
                for metrics in (r.metrics for r in results):
                    parts = metrics.queue_ms + metrics.copy_ms + metrics.compute_ms
                    assert parts == pytest.approx(metrics.total_ms) and metrics.compute_ms > 0
        assert pipe_of(engine).pool.statistics.lent_mib == 0


def test_a_batch_that_does_not_fit_is_halved_and_the_limit_is_put_back(hungry):
    before = torch.cuda.get_per_process_memory_fraction()
    x = hungry.task.examples(64)
    with Engine.from_variant(
        hungry, backend="torch-eager", batch_size=64, use_gpu=True, gpu_memory_limit_mib=700
    ) as engine:
        first = engine.predict(x)
        batches = engine.predict_batch([x, x])
        streamed = list(engine.stream(x.split(16)))
        (note,) = [note for note in engine.notes if "ran out of memory" in note]
    assert "with 64 samples on cuda:0 (out of memory" in note
    assert int(note.rsplit(" ", 1)[1]) in (8, 16)
    torch.testing.assert_close(first.result, on_cpu(hungry, x), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.cat([r.result for r in batches]), first.result.repeat(2, 1))
    torch.testing.assert_close(torch.cat([r.result for r in streamed]), first.result)
    assert torch.cuda.get_per_process_memory_fraction() == before


def test_a_single_sample_that_does_not_fit_is_said(hungry):
    with pytest.raises(EngineError, match=r"ran out of memory on cuda:0 with a single sample: out of memory"):
        Engine.from_variant(hungry, backend="torch-eager", batch_size=4, use_gpu=True, gpu_memory_limit_mib=20)


def test_the_peak_is_that_of_the_engine(hungry, variants):
    small = variants["images"]
    with (
        Engine.from_variant(hungry, backend="torch-eager", use_gpu=True) as large,
        Engine.from_variant(small, backend="torch-eager", use_gpu=True) as other,
    ):
        peak = large.predict(hungry.task.examples(8)).metrics.peak_memory_mib
        assert 8 * 32 <= peak <= 8 * 32 + 100  # with the workspaces of CUDA's libraries
        assert other.predict(small.task.examples(8)).metrics.peak_memory_mib < 100
        assert large.predict(hungry.task.examples(1)).metrics.peak_memory_mib >= peak
