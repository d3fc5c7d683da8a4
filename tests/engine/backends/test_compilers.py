"""torch.compile, TorchScript and AOTInductor: the module's own outputs, or a refusal in one line."""

from __future__ import annotations

import dataclasses
import functools
import types
import warnings

import numpy as np
import pytest
import torch
from engine_models import Encoder, FixedBatch, Images, Pair, Same, Signed, Sized, Words, make_variant

from workbench.core.errors import BackendUnavailable, EngineError, ExportError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine
from workbench.engine.backends import backend_status, require_backend
from workbench.engine.loading.source import source_from_variant
from workbench.tasks.trees import leaves, tree_map

Engine = OptimizedInferenceEngine
MISSING = {state.name: state.reason for state in backend_status(["torch-compile", "aot-inductor"]) if state.reason}


def compilers(*, slow=()):
    """Return the compilers as parameters: skipped where they are missing, those in ``slow`` in the slow tier."""
    return [
        pytest.param(
            name,
            marks=[
                pytest.mark.skipif(name in MISSING, reason=str(MISSING.get(name))),
                *([pytest.mark.slow] if name in slow else []),
            ],
        )
        for name in ("torchscript", "torch-compile", "aot-inductor")
    ]


COMPILERS = compilers()
AOT_SLOW = compilers(slow=("aot-inductor",))  # 15 s of g++ for each model
CODE = """
import torch
from torch.nn import functional as F
def twice(x):
    return F.relu(x) * 2
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 4)
    def forward(self, x):
        return F.gelu(twice(self.linear(x)))
"""
GENERATOR = torch.Generator().manual_seed(3)
ROWS = torch.randn(20, 6, generator=GENERATOR)
INPUTS = {
    Signed: ROWS.abs(),
    Pair: (ROWS, torch.randn(20, 6, generator=GENERATOR)),
    Images: torch.randn(20, 3, 8, 8, generator=GENERATOR),
    Words: {
        "tokens": torch.randint(0, 30, (20, 7), generator=GENERATOR),
        "weight": torch.rand(20, generator=GENERATOR),
    },
}


@pytest.fixture(scope="module", autouse=True)
def _inductor_is_loaded():
    """Load Inductor and its C++ toolchain once, outside of the time of a test."""
    if backend_status(["torch-compile"])[0].available:
        torch.compile(lambda x: x + 1)(torch.ones(2))


@functools.cache
def variant(kind):
    return make_variant(kind, INPUTS.get(kind, ROWS))


def check(engine, model, inputs, sizes):
    """Hold the outputs of an engine against the eager module at each batch size."""
    for size in sizes:
        given = tree_map(lambda leaf, size=size: leaf[:size], inputs)
        got, want = leaves(engine.predict(given).result), leaves(model.predict(given))
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Pair, Images, Words])
@pytest.mark.parametrize("backend", AOT_SLOW)
def test_outputs_are_the_modules_own_at_other_batch_sizes_too(backend, kind):
    before = torch.get_num_threads()
    with Engine.from_variant(variant(kind), backend=backend, batch_size=4, threads=before + 1) as engine:
        assert torch.get_num_threads() == engine.threads == before + 1
        assert engine.max_abs_diff < 1e-5
        check(engine, variant(kind), INPUTS[kind], (4, 9, 1))
        given = tree_map(lambda leaf: leaf[:4].numpy(), INPUTS[kind])
        assert all(isinstance(leaf, np.ndarray) for leaf in leaves(engine.predict(given).result))
    assert torch.get_num_threads() == before
    engine.dispose()
    with pytest.raises(EngineError, match="was disposed"):
        engine.predict(given)


@pytest.mark.parametrize("backend", AOT_SLOW)
def test_outputs_do_not_share_memory_with_inputs(backend):
    with Engine.from_variant(variant(Same), backend=backend, batch_size=2) as engine:
        x = np.ones((2, 6), np.float32)
        x.flags.writeable = False
        first = engine.predict(x).result
        assert not np.shares_memory(first, x)
        engine.predict(x * 2)
        np.testing.assert_array_equal(first, x)


@pytest.mark.slow
@pytest.mark.parametrize("backend", AOT_SLOW)
def test_an_artifact_runs_with_the_tasks_build(backend, saved, images):
    with Engine.from_artifact(saved, build=images.task.build, backend=backend, batch_size=2) as engine:
        check(engine, images, INPUTS[Images], (2,))


def test_code_that_branches_on_values_is_followed_or_refused():
    with Engine.from_variant(variant(Signed), backend="torchscript", verify=False, tolerance=100.0):
        pass  # the check goes by the tolerance that was asked for
    with pytest.raises(EngineError) as caught:
        Engine.from_variant(variant(Signed), backend="torchscript")
    assert "TorchScript traces variant 'float' wrongly, at batch 1, inputs of the opposite sign: " in str(caught.value)
    assert "Use the backend torch-eager" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif("torch-compile" in MISSING, reason=str(MISSING.get("torch-compile")))
def test_torch_compile_follows_a_branch_and_aot_inductor_says_why_it_cannot():
    with Engine.from_variant(variant(Signed), backend="torch-compile", batch_size=2) as engine:
        for x in (ROWS[:2].abs(), -ROWS[:2].abs()):
            check(engine, variant(Signed), x, (2,))
    with pytest.raises(ExportError, match="AOTInductor cannot export variant 'float': its code branches on") as caught:
        Engine.from_variant(variant(Signed), backend="aot-inductor")
    assert "\n" not in str(caught.value)


def test_a_batch_size_that_a_trace_makes_a_constant_is_refused():
    with pytest.raises(EngineError, match="TorchScript traces variant 'float' wrongly, at batch 5"):
        Engine.from_variant(variant(FixedBatch), backend="torchscript", batch_size=4)


@pytest.mark.parametrize("kind", [FixedBatch, Sized])
@pytest.mark.parametrize("backend", AOT_SLOW[1:])
def test_code_that_looks_at_the_batch_size_is_followed(backend, kind):
    with Engine.from_variant(variant(kind), backend=backend, batch_size=4) as engine:
        check(engine, variant(kind), ROWS, (4, 5))


def test_torchscript_traces_attention_and_puts_the_switch_back():
    x = torch.randn(20, 5, 16, generator=GENERATOR)
    encoder = make_variant(Encoder, x)
    before = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = Engine.from_variant(encoder, backend="torchscript", batch_size=3)
    with engine:
        assert torch.backends.mha.get_fastpath_enabled() == before
        check(engine, encoder, x, (3, 7))
        assert any("TorchScript is deprecated" in note for note in engine.notes)


@pytest.mark.parametrize("backend", ["torchscript", "aot-inductor"])
def test_what_must_be_followed_needs_example_inputs(backend):
    if backend in MISSING:
        pytest.skip(MISSING[backend])
    source = dataclasses.replace(source_from_variant(variant(Pair), onnx=False, batch=2), reference=None)
    before = torch.get_num_threads()
    with pytest.raises(EngineError, match="needs example inputs, and variant 'float' has none"):
        Engine(InferenceConfig(backend=backend, threads=before + 1), source=source).initialize()
    assert torch.get_num_threads() == before


@pytest.mark.slow
@pytest.mark.skipif("torch-compile" in MISSING, reason=str(MISSING.get("torch-compile")))
def test_many_engines_are_all_compiled():
    """torch counts compiled code by its line of Python, and goes back to eager without an error when it is too much."""
    import torch._dynamo

    with torch._dynamo.config.patch(recompile_limit=1):
        for size in (1, 2, 3):
            before = torch._dynamo.utils.counters["frames"]["ok"]
            with Engine.from_variant(variant(Pair), backend="torch-compile", batch_size=size) as engine:
                assert torch._dynamo.utils.counters["frames"]["ok"] > before
                check(engine, variant(Pair), INPUTS[Pair], (size,))


@pytest.mark.skipif("torch-compile" in MISSING, reason=str(MISSING.get("torch-compile")))
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_modes_of_torch_compile(mode):
    with Engine.from_variant(variant(Pair), backend="torch-compile", compile_mode=mode) as engine:
        check(engine, variant(Pair), INPUTS[Pair], (1,))
        said = any("the same as 'default'" in note for note in engine.notes)
        assert said == (mode == "reduce-overhead" and not torch.cuda.is_available())


@pytest.mark.cpu_limit(5)
@pytest.mark.skipif("torch-compile" in MISSING, reason=str(MISSING.get("torch-compile")))
def test_torch_compile_runs_code_whose_module_is_not_there():
    """A study's process gets a task's code by cloudpickle: the file it came from is no module there."""
    module = types.ModuleType("a_file_elsewhere")
    exec(CODE, vars(module))
    made = make_variant(module.Net, ROWS)
    with Engine.from_variant(made, backend="torch-compile", batch_size=2) as engine:
        check(engine, made, ROWS, (2, 3))


@pytest.mark.slow
def test_auto_measures_only_the_candidates():
    with Engine.from_variant(variant(Pair), candidates=("torchscript", "openvino"), batch_size=2) as engine:
        assert {candidate.backend for candidate in engine.selection} == {"torchscript", "openvino"}
        check(engine, variant(Pair), INPUTS[Pair], (2, 3))


@pytest.mark.parametrize("backend", ["torch-compile", "aot-inductor"])
def test_a_missing_compiler_is_told_with_the_command_that_gets_it(backend, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BackendUnavailable) as caught:
        require_backend(backend)
    assert str(caught.value) == (
        f"Backend '{backend}' cannot run here: it needs a C++ compiler, and 'g++' is not on the PATH. "
        "sudo apt-get install g++"
    )


@pytest.mark.skipif("torch-compile" in MISSING, reason=str(MISSING.get("torch-compile")))
@pytest.mark.parametrize("backend", ["torch-compile", "aot-inductor"])
def test_a_compiler_that_fails_is_told_in_one_line(backend, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no space left\nand a page of flags")

    places = {"torch-compile": "compile_fx.compile_fx", "aot-inductor": "aoti_compile_and_package"}
    monkeypatch.setattr(f"torch._inductor.{places[backend]}", fail)
    with pytest.raises(EngineError, match=r"cannot compile variant 'float': .*no space left\. Use the") as caught:
        Engine.from_variant(variant(Pair), backend=backend)
    assert "\n" not in str(caught.value)
