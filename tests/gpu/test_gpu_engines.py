"""torch's backends on a real CUDA device, held against torch eager on the CPU."""

from __future__ import annotations

import threading

import pytest
import torch
from engine_models import Signed, make_variant
from gpu_checks import assert_near, cut, on_cpu
from torch import nn

from workbench.core.errors import ConfigError
from workbench.engine import OptimizedInferenceEngine

Engine = OptimizedInferenceEngine
NAMES = ["images", "words", "encoder", "pair"]
TORCH = ["torch-eager", "torchscript"]
COMPILERS = ["torch-compile", "aot-inductor"]


def needs(major):
    """Skip where the GPU has no such formats."""
    if torch.cuda.get_device_capability() < (major, 0):
        pytest.skip(f"needs compute capability {major}.0, and this GPU has {torch.cuda.get_device_capability()}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", TORCH)
def test_outputs_are_those_of_the_cpu(variants, name, backend):
    variant, x = variants[name], variants[name].task.examples(5)
    with Engine.from_variant(variant, backend=backend, batch_size=5, use_gpu=True) as engine:
        result = engine.predict(x)
        assert_near(variant, x, result.result)
        out = engine.output_buffers(5)
        engine.predict(x, out=out)
        again = engine.predict(cut(x, 3))
        assert_near(variant, cut(x, 3), again.result)
    assert result.metrics.device == "cuda:0" and engine.placement.place == "cuda:0"
    assert not any("running on the CPU" in note for note in engine.notes)


@pytest.mark.slow
@pytest.mark.parametrize("backend", COMPILERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compilers_give_those_of_the_cpu(variants, backend, precision):
    if precision != "float32":
        needs(8)
    for name in ("images", "words"):
        variant, x = variants[name], variants[name].task.examples(5)
        with Engine.from_variant(variant, backend=backend, batch_size=5, use_gpu=True, precision=precision) as engine:
            assert engine.precision == precision
            for stop in (5, 3, 5, 1):
                assert_near(variant, cut(x, stop), engine.predict(cut(x, stop)).result, precision)


@pytest.mark.slow
def test_reduce_overhead_overwrites_nothing_that_was_given_away(variants):
    variant = variants["images"]
    x = variant.task.examples(12)
    with Engine.from_variant(
        variant, backend="torch-compile", compile_mode="reduce-overhead", batch_size=4, use_gpu=True
    ) as engine:
        kept = [engine.predict(part).result for part in x.split(4)]
        torch.testing.assert_close(torch.cat(kept), on_cpu(variant, x), rtol=1e-3, atol=1e-4)
        found = [result.result for result in engine.stream(list(x.split(2)))]
        torch.testing.assert_close(torch.cat(found), on_cpu(variant, x), rtol=1e-3, atol=1e-4)
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(engine.predict(x[:4]).result))
        thread.start()
        thread.join()
        torch.testing.assert_close(elsewhere[0], on_cpu(variant, x[:4]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16", "auto"])
@pytest.mark.parametrize("graph", [False, True])
def test_every_precision_stays_within_its_tolerance(variants, name, precision, graph):
    needs(8)
    variant, x = variants[name], variants[name].task.examples(5)
    with Engine.from_variant(
        variant, backend="torch-eager", batch_size=5, use_gpu=True, precision=precision, cuda_graph=graph
    ) as engine:
        taken = "bfloat16" if precision == "auto" else precision
        assert engine.precision == taken
        assert any(f"computes in {taken}, natively (compute capability" in note for note in engine.notes)
        assert_near(variant, x, engine.predict(x).result, taken)


class Wide(nn.Module):
    """A product that tf32 rounds visibly."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2048, 64)

    def forward(self, x):
        return self.linear(x)


def test_float32_is_all_of_it_and_tf32_is_not_whichever_engine_ran_before():
    needs(8)
    variant = make_variant(Wide, torch.randn(20, 2048, generator=torch.Generator().manual_seed(0)))
    x = variant.task.examples(16)
    wanted = on_cpu(variant, x)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with (
        Engine.from_variant(variant, backend="torch-eager", use_gpu=True) as full,
        Engine.from_variant(variant, backend="torch-eager", use_gpu=True, precision="tf32") as rounded,
    ):
        for _ in range(2):
            error = (full.predict(x).result - wanted).abs().max()
            assert error < (rounded.predict(x).result - wanted).abs().max() / 10
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize("name", NAMES)
def test_recorded_graphs_read_new_inputs_every_time(variants, name):
    variant, x = variants[name], variants[name].task.examples(20)
    with Engine.from_variant(variant, backend="torch-eager", batch_size=4, use_gpu=True, cuda_graph=True) as engine:
        graphed = engine.session.model.session._call
        assert len(graphed._graphs) == 1  # that of the configured batch size, while it was loaded
        for stop in (4, 20, 4, 20, 20, 7):
            assert_near(variant, cut(x, stop), engine.predict(cut(x, stop)).result)
        assert len(graphed._graphs) == 2
        assert not any(note.startswith("cuda_graph=True") for note in engine.notes)


def test_outputs_of_a_graph_are_the_callers(variants):
    variant = variants["images"]
    x = variant.task.examples(20)
    with Engine.from_variant(variant, backend="torch-eager", batch_size=4, use_gpu=True, cuda_graph=True) as engine:
        kept = [engine.predict(part).result for part in x.split(4)]
        kept += [result.result for result in engine.stream(list(x.split(2)))]
        kept += [result.result for result in engine.predict_batch(list(x.split(1)))]
    torch.testing.assert_close(torch.cat(kept), on_cpu(variant, x).repeat(3, 1), rtol=1e-3, atol=1e-4)


def test_a_model_that_cannot_be_recorded_runs_without_and_says_so():
    variant = make_variant(Signed, torch.randn(20, 6, generator=torch.Generator().manual_seed(0)))
    x = variant.task.examples(4)
    with Engine.from_variant(variant, backend="torch-eager", batch_size=4, use_gpu=True, cuda_graph=True) as engine:
        for given in (x, -x, x):
            assert_near(variant, given, engine.predict(given).result)
        assert sum("cannot be recorded" in note for note in engine.notes) == 1


def test_the_device_is_chosen_by_name(variants):
    variant, x = variants["images"], variants["images"].task.examples(2)
    last = torch.cuda.device_count() - 1
    for device, name in [("cuda", "cuda:0"), (f"cuda:{last}", f"cuda:{last}"), ("cpu", "cpu")]:
        with Engine.from_variant(variant, backend="torch-eager", device=device, cuda_graph=device != "cpu") as engine:
            result = engine.predict(x)
        assert result.metrics.device == name
        assert_near(variant, x, result.result)
    with pytest.raises(ConfigError, match=rf"'cuda:{last + 1}' is not there\. torch finds cuda:0 \("):
        Engine.from_variant(variant, backend="torch-eager", device=f"cuda:{last + 1}")
