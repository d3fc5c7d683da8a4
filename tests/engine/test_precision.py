"""Precision: outputs of every backend within the tolerance, inputs and outputs float32, and what is said."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from engine_models import Encoder, Pair, make_variant
from torch import Tensor, nn

from workbench.core.config import from_dict
from workbench.core.errors import ConfigError, EngineError
from workbench.core.machine import this_machine
from workbench.engine import InferenceConfig, OptimizedInferenceEngine, Precision
from workbench.engine.precision import (
    HINTS,
    TOLERANCES,
    native_set,
    precision_in_onnxruntime,
    precision_in_openvino,
    precision_on_cpu,
)

Engine = OptimizedInferenceEngine
TORCH = ["torch-eager", "torchscript"]


class Large(nn.Module):
    """Beyond what float16 can hold, and cancelled down to what bfloat16 cannot tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        with torch.no_grad():
            self.linear.weight.mul_(1e6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + 1000) - self.linear(torch.full_like(x, 1000.0))


class OwnTensors(nn.Module):
    """Makes float32 tensors of its own, and shares the embedding's weight with the last product."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.last = nn.Embedding(30, 16), nn.LayerNorm(16), nn.Linear(16, 30, bias=False)
        self.last.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], dtype=torch.float32)[:, None] / 7
        return self.last(self.norm(self.table(tokens) + places))


@pytest.fixture(scope="module")
def variants(images, words):
    """Return variants of several kinds by name; each is exported once."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 6, generator=generator)
    return {
        "images": images,
        "words": words,
        "encoder": make_variant(Encoder, torch.randn(20, 5, 16, generator=generator)),
        "pair": make_variant(Pair, (rows, rows.flip(0))),
        "own": make_variant(OwnTensors, torch.randint(0, 30, (20, 7), generator=generator)),
    }


def leaves(tree):
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for part in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(part)]


def run(variant, x):
    with torch.no_grad():
        return (
            variant.module(**x)
            if isinstance(x, dict)
            else variant.module(*x)
            if isinstance(x, tuple)
            else variant.module(x)
        )


def machine(*isa):
    return dataclasses.replace(this_machine(), isa=isa)


@pytest.mark.cpu_limit(5)
@pytest.mark.parametrize("name", ["images", "words", "encoder", "pair", "own"])
@pytest.mark.parametrize("backend", [*TORCH, "onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "auto"])
def test_outputs_are_float32_and_within_the_tolerance(variants, name, backend, precision):
    variant = variants[name]
    x = variant.task.examples(5)
    with Engine.from_variant(variant, backend=backend, batch_size=5, threads=1, precision=precision) as engine:
        assert engine.precision in ((precision, "float32") if precision != "auto" else ("bfloat16", "float32"))
        assert any("float32" in note or f"computes in {engine.precision}" in note for note in engine.notes)
        for got, want in zip(leaves(engine.predict(x).result), leaves(run(variant, x)), strict=True):
            assert got.dtype == want.dtype
            if want.is_floating_point():
                assert (got - want).abs().max() <= TOLERANCES[engine.precision] * want.abs().max()
        if engine.precision != "float32":
            assert engine.max_abs_diff > 1e-5  # it is not float32 under another name


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch-compile", "aot-inductor"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["words", "encoder", "own"])
def test_compilers_keep_the_precision(variants, name, backend, precision):
    variant = variants[name]
    x = variant.task.examples(3)
    with Engine.from_variant(variant, backend=backend, batch_size=3, precision=precision) as engine:
        assert engine.precision == precision
        for got, want in zip(leaves(engine.predict(x).result), leaves(run(variant, x)), strict=True):
            if want.is_floating_point():
                assert got.dtype == want.dtype
                assert (got - want).abs().max() <= TOLERANCES[precision] * want.abs().max()


def test_torch_takes_every_format_and_says_what_is_emulated(images, monkeypatch):
    monkeypatch.setattr("workbench.engine.precision.this_machine", lambda: machine("avx512_bf16"))
    with Engine.from_variant(images, backend="torch-eager", precision="bfloat16") as engine:
        assert engine.precision == "bfloat16"
        assert any("computes in bfloat16, natively (avx512_bf16)" in note for note in engine.notes)
    with Engine.from_variant(images, backend="torch-eager", precision="float16") as engine:
        assert any("computes in float16, emulated on this CPU" in note for note in engine.notes)
    monkeypatch.setattr("workbench.engine.precision.this_machine", lambda: machine("avx2"))
    with Engine.from_variant(images, backend="torch-eager", precision="auto") as engine:
        assert engine.precision == "float32" and engine.max_abs_diff < 1e-5
        assert any("no 16-bit format natively; computing in float32" in note for note in engine.notes)


def test_too_far_is_an_error_that_names_precision_difference_and_tolerance():
    variant = make_variant(Large, torch.randn(20, 8, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(
        EngineError,
        match=r"torch-eager in bfloat16 is too far .*: output 0: largest difference is .*, allowed is 0\.05\. "
        "Use precision='float32'",
    ):
        Engine.from_variant(variant, backend="torch-eager", precision="bfloat16")
    with pytest.raises(EngineError, match=r"in float16 is too far .*NaN or infinite values"):
        Engine.from_variant(variant, backend="torch-eager", precision="float16")
    lenient = Precision("bfloat16", tolerance=100.0)
    with Engine.from_variant(variant, backend="torch-eager", precision=lenient) as engine:
        assert engine.precision == "bfloat16"


def test_auto_goes_back_to_float32_where_16_bits_are_too_far(monkeypatch):
    monkeypatch.setattr("workbench.engine.precision.this_machine", lambda: machine("avx512_bf16"))
    variant = make_variant(Large, torch.randn(20, 8, generator=torch.Generator().manual_seed(0)))
    for backend in ("torch-eager", "auto"):
        with Engine.from_variant(
            variant,
            backend=backend,
            precision="auto",
            candidates=("torch-eager",) if backend == "auto" else InferenceConfig().candidates,
        ) as engine:
            assert engine.precision == "float32"
            assert any(note.startswith("precision='auto': in bfloat16 the output 0") for note in engine.notes)


def test_the_policys_tolerance_comes_before_the_configs(images):
    with pytest.raises(EngineError, match="allowed is 1e-06"):
        Engine.from_variant(
            images, backend="torch-eager", precision=Precision("bfloat16", tolerance=1e-6), tolerance=0.5
        )
    with pytest.raises(EngineError, match="allowed is 1e-06"):
        Engine.from_variant(images, backend="torch-eager", precision="bfloat16", tolerance=1e-6)


def test_the_variants_own_weights_stay_float32(images):
    with Engine.from_variant(images, backend="torch-eager", precision="bfloat16") as engine:
        assert engine.session.model._module.module.head.weight.dtype == torch.bfloat16
        assert engine.session.model._module.module.norm.weight.dtype == torch.float32
    assert images.module.head.weight.dtype == torch.float32


def test_a_simulated_quantization_stays_in_float32():
    assert precision_on_cpu(Precision("bfloat16"), quantized=True).precision == "float32"
    assert "rounding is simulated in float32" in precision_on_cpu(Precision("auto"), quantized=True).notes[0]


def test_a_module_that_fails_in_16_bits_is_named_with_the_precision(monkeypatch):
    variant = make_variant(Solves, torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(EngineError, match=r"torch-eager cannot run variant .* in bfloat16: "):
        Engine.from_variant(variant, backend="torch-eager", precision="bfloat16")


class Closest(nn.Module):
    """A product, and which of a thousand nearly equal values in it is the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 1000)
        with torch.no_grad():
            self.linear.weight.copy_(self.linear.weight[:1] + 1e-3 * torch.randn(1000, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x)
        return y, y.argmax(1)


class Solves(nn.Module):
    """A solver that LAPACK has in float32 and float64 only, on the output of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.lu_factor(self.linear(x))[0]


@pytest.mark.parametrize(
    ("isa", "format", "found"),
    [
        (("avx2",), "bfloat16", None),
        (("avx512f", "avx512_bf16"), "bfloat16", "avx512_bf16"),
        (("avx512_bf16", "amx_bf16"), "bfloat16", "amx_bf16"),
        (("asimd", "bf16"), "bfloat16", "bf16"),
        (("avx512_bf16",), "float16", None),
        (("asimd", "asimdhp"), "float16", "asimdhp"),
    ],
)
def test_instruction_sets_decide_what_is_native(isa, format, found):
    assert native_set(format, machine(*isa)) == found


def test_openvino_takes_what_its_device_offers():
    for precision, can, taken in [
        ("bfloat16", ["FP32", "BF16"], "bfloat16"),
        ("float16", ["FP32", "BF16"], "float32"),
        ("float16", ["FP32", "FP16"], "float16"),
        ("auto", ["FP32", "FP16"], "float16"),
        ("auto", ["FP32", "INT8"], "float32"),
        ("tf32", ["FP32"], "float32"),
    ]:
        found = precision_in_openvino(Precision(precision), "CPU", can)
        assert found.precision == taken and taken in HINTS
        assert len(found.notes) == 1
    assert (
        "on this GPU, which has FP32, INT8"
        in precision_in_openvino(Precision("bfloat16"), "GPU", ["INT8", "FP32", "BIN"]).notes[0]
    )


def test_onnxruntime_rounds_products_on_arm_only():
    taken, entries = precision_in_onnxruntime(
        Precision("bfloat16"), machine=machine("asimd", "bf16"), architecture="aarch64"
    )
    assert taken.precision == "bfloat16" and entries == {"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"}
    for machine_, architecture in ((machine("asimd"), "aarch64"), (machine("avx512_bf16"), "x86_64")):
        taken, entries = precision_in_onnxruntime(Precision("bfloat16"), machine=machine_, architecture=architecture)
        assert taken.precision == "float32" and not entries and "float32 and integers only" in taken.notes[0]


def test_options_are_checked_and_survive_json():
    config = InferenceConfig(precision="bfloat16")
    assert config.precision == Precision(compute="bfloat16")
    assert from_dict(InferenceConfig, config.to_dict()) == config
    assert from_dict(InferenceConfig, {"precision": "float16"}).precision.compute == "float16"
    for wrong, words in [
        ("bf16", r"^InferenceConfig\.precision: Unknown precision 'bf16'\. Did you mean 'bfloat16'\? Allowed"),
        ("FP16", r"Did you mean 'float16'\? Allowed: auto, bfloat16, float16, float32, tf32\."),
        ("bfloat", "Did you mean 'bfloat16'"),
        (16, "precision must be Precision"),
        (None, r"^InferenceConfig\.precision must be .* got None\. Allowed: auto, bfloat16, float16, float32, tf32"),
        ("tf32", r"'tf32' is a mode of CUDA devices.*use_gpu=True"),
    ]:
        with pytest.raises(ConfigError, match=words):
            InferenceConfig(precision=wrong)
    with pytest.raises(ConfigError, match="tolerance must be above 0"):
        Precision("bfloat16", tolerance=0)


def test_tf32_without_a_gpu_is_float32_with_a_note(images, backend):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with Engine.from_variant(images, backend=backend, use_gpu=True, precision="tf32") as engine:
        assert engine.precision == "float32" and engine.max_abs_diff < 1e-5
        assert sum("precision='tf32'" in note and "computing in float32" in note for note in engine.notes) == 1


def test_an_index_of_the_largest_value_is_no_measure_of_precision():
    variant = make_variant(Closest, torch.randn(20, 8, generator=torch.Generator().manual_seed(0)))
    x = variant.task.examples(8)
    with Engine.from_variant(variant, backend="torch-eager", batch_size=8, precision="bfloat16") as engine:
        assert not torch.equal(engine.predict(x).result[1], run(variant, x)[1])
