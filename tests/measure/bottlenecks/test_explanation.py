"""Why a variant is not faster: each rule on numbers that were made up, and on a profile that was measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.compress.variant import Variant
from workbench.core.errors import ConfigError
from workbench.measure.bottlenecks import rules
from workbench.measure.profiling.work import LayerWork
from workbench.tasks.task import Task


class Odd(nn.Module):
    """Two convolutions of 13 channels, wide enough to take most of a call."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 13, 3, padding=1)
        self.body = nn.Conv2d(13, 13, 3, padding=1)
        self.head = nn.Linear(13, 4)

    def forward(self, x):
        return self.head(self.body(self.stem(x).relu()).mean((2, 3)))


class Wide(nn.Module):
    """One large product with few samples: nothing but weights to read."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Linear(64, 32768)

    def forward(self, x):
        return self.large(x)


def variant_of(kind, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind().eval()
        x = torch.randn(316, *shape)
    y = torch.arange(316) % 4
    return Variant.original(
        Task(
            name="made",
            build=lambda: module,
            train=(x[16:], y[16:]),
            evaluation=(x[:16], y[:16]),
            metric=lambda out, y: 0.5,
            loss=nn.functional.cross_entropy,
        )
    )


def rules_of(explanation):
    return [reason.rule for reason in explanation.bottlenecks]


def test_launch_bound_by_hand(made):
    rows = [(f"layer{i}", "Relu", 0.004) for i in range(10)]
    found = rules.launch_bound(made["make_profile"](rows, plain_ms=0.1))
    assert found.share == pytest.approx(1.0)
    assert "10 of 10 nodes take 10 µs or less, 0.04 ms" in found.text and "at least 0.06 ms" in found.text
    assert rules.launch_bound(made["make_profile"]()) is None  # 0.2 of 1.2 ms outside
    busy = made["make_profile"](plain_ms=9.0, disturbed=("other processes used 70 % of the cores",))
    assert rules.launch_bound(busy) is None
    words = str(wb.explain(busy))
    assert "disturbed: other processes used 70 %" in words
    assert "8 ms of a call (89 %) is outside of all nodes: launch overhead, or waiting" in words
    assert rules.launch_bound(made["make_profile"](plain_ms=9.0, fast_ms=1.1)) is None  # one slow call in two
    assert "nodes take" not in rules.launch_bound(made["make_profile"](plain_ms=2.0)).text


@pytest.mark.slow
def test_a_small_net_with_one_sample_is_launch_bound(tiny):
    found = wb.explain(wb.profile(tiny, backend="onnxruntime", threads=1, calls=20))
    assert "launch-bound" in rules_of(found)


def test_memory_bound_by_hand(made):
    work = [LayerWork("fc", flop=2_000_000, weights=1_000_000, activations=2_000, channels=(1000, 1000))]
    rows = [("fc", "Gemm", 0.4), ("relu", "Relu", 0.1)]
    found = rules.memory_bound(made["make_profile"](rows, work=tuple(work)), made["make_peaks"]())
    assert found.share == pytest.approx(0.8)
    # 2 operations for 4 bytes, at a ridge of 5; 4.008 MB in 0.4 ms
    assert "fc has 10 % of its intensity and moves 10.0 of 20.0 GB/s" in found.text
    slow = made["make_profile"]([("fc", "Gemm", 4.0)], work=tuple(work))
    assert rules.memory_bound(slow, made["make_peaks"]()) is None  # 1 GB/s: something else holds it up
    assert rules.memory_bound(made["make_profile"](), made["make_peaks"]()) is None
    assert rules.memory_bound(made["make_profile"](rows), None) is None


@pytest.mark.slow
def test_a_large_product_of_one_sample_is_memory_bound(made):
    found = wb.profile(variant_of(Wide, (64,)), backend="onnxruntime", threads=1, calls=10)
    peaks = made["make_peaks"](copy_gb_s=2.0)
    assert "memory-bound" in rules_of(wb.explain(found, peaks=peaks))


def test_odd_channels_by_hand(made):
    work = [
        LayerWork("stem", 1, 1, 1, (3, 13)),
        LayerWork("body", 1, 1, 1, (13, 32)),
        LayerWork("head", 1, 1, 1, (32, 10)),
    ]
    found = rules.odd_channels(made["make_profile"](work=tuple(work)))
    assert found.share == pytest.approx(0.8)
    assert "body (13), stem (13)" in found.text and "2 layers with 80 %" in found.text
    assert rules.odd_channels(made["make_profile"]()) is None  # 3 pixels in and 10 classes out are the task's


@pytest.mark.slow
def test_a_net_with_thirteen_channels_is_told_so():
    found = wb.explain(wb.profile(variant_of(Odd, (1, 24, 24)), batch_size=4, backend="onnxruntime", calls=10))
    reason = next(reason for reason in found.bottlenecks if reason.rule == "channels")
    assert "body (13)" in reason.text


def test_precision_changes_by_hand(made):
    rows = [("stem", "QuantizeLinear", 0.2), ("stem", "Conv", 0.7), ("stem", "DequantizeLinear", 0.1)]
    found = rules.precision_changes(made["make_profile"](rows))
    assert found.share == pytest.approx(0.3) and "2 nodes" in found.text and "QuantizeLinear, Deq" in found.text
    assert rules.precision_changes(made["make_profile"]()) is None


@pytest.mark.slow
def test_roundings_that_no_runtime_fused_are_found_with_the_float_products_between_them(tiny_int8):
    found = wb.profile(tiny_int8, backend="onnxruntime", graph_optimization="none", threads=1, calls=10)
    rules = rules_of(wb.explain(found))
    assert {"precision changes", "float products"} <= set(rules) and "simulated" not in rules


def test_fallback_by_hand(made):
    rows = [("a", "Conv", 0.8, "float32", "CUDAExecutionProvider"), ("b", "NonZero", 0.2)]
    found = rules.fallback(made["make_profile"](rows, precision="float32", requested="float32"))
    assert found.share == pytest.approx(0.2)
    assert "1 node on CPUExecutionProvider instead of CUDAExecutionProvider (NonZero), 20 %" in found.text
    found = rules.fallback(made["make_profile"](requested="float16"))
    assert "computes in float32, requested was float16" in found.text
    assert rules.fallback(made["make_profile"](requested="auto", precision="float32")) is None
    assert rules.fallback(made["make_profile"]()) is None


@pytest.mark.slow
def test_a_provider_that_takes_nothing_is_found(tiny):
    found = wb.profile(tiny, backend="onnxruntime", providers=("azure", "cpu"), calls=3)
    reason = next(reason for reason in wb.explain(found).bottlenecks if reason.rule == "fallback")
    assert "zure" in reason.text


def test_simulated_int8_by_hand_and_in_torch(made, tiny_int8):
    rows = [("a", "quantized_decomposed::quantize_per_tensor", 0.25), ("a", "aten::conv2d", 0.75)]
    found = rules.simulated(made["make_profile"](rows, backend="torch-eager", quantized=True))
    assert found.share == pytest.approx(0.25) and "25 % of the time is fake quantization" in found.text
    assert rules.simulated(made["make_profile"](rows, backend="torch-eager")) is None
    assert rules.simulated(made["make_profile"](rows, quantized=True)) is None
    measured = wb.explain(wb.profile(tiny_int8, backend="torch-eager", threads=1, calls=5))
    assert "simulated" in rules_of(measured) and "precision changes" not in rules_of(measured)


def test_float_products_by_hand(made):
    rows = [("a", "Conv", 0.5, "float32"), ("b", "QLinearConv", 0.5, "int8")]
    found = rules.float_products(made["make_profile"](rows, quantized=True))
    assert (
        found.share == pytest.approx(0.5) and "1 of 2 products of a quantized variant compute in float32" in found.text
    )
    assert rules.float_products(made["make_profile"](rows)) is None


def test_what_no_step_could_shorten(made):
    before = made["make_profile"]()
    rows = [("stem", "Conv", 0.1), ("relu", "Relu", 0.1), ("body", "Conv", 0.05)]
    found = rules.untouched(before, made["make_profile"](rows, macs=before.macs // 4))
    assert "fell by 75 %, but 40 % of the time" in found.text and "(0.1 ms before, 0.1 ms after)" in found.text
    assert rules.untouched(before, before) is None


def test_layers_that_became_slower(made):
    rows = [("stem", "QLinearConv", 0.45), ("relu", "Relu", 0.1), ("body", "QLinearConv", 0.2), ("new", "Cast", 0.25)]
    found = rules.slower_layers(made["make_profile"](), made["make_profile"](rows))
    assert found.share == pytest.approx(0.15)
    assert "1 layer slower" in found.text and "stem from 0.3 ms to 0.45 ms" in found.text
    assert rules.slower_layers(made["make_profile"](rows), made["make_profile"]([("stem", "Conv", 0.46)])) is None


def test_reasons_stand_with_the_largest_first_and_say_what_was_not_looked_for(made):
    rows = [("a", "quantized_decomposed::quantize_per_tensor", 0.6), ("stem", "aten::conv2d", 0.4)]
    work = (LayerWork("x", 1, 1, 1, (8, 8)), LayerWork("stem", 1, 1, 1, (7, 8)), LayerWork("y", 1, 1, 1, (8, 8)))
    found = wb.explain(made["make_profile"](rows, backend="torch-eager", quantized=True, work=work, plain_ms=1.0))
    assert rules_of(found) == ["simulated", "channels"] and len(found.notes) == 1
    assert str(found).startswith("- simulated: ") and "memory-bound was not checked" in str(found)
    clear = wb.explain(made["make_profile"](plain_ms=1.0), peaks=made["make_peaks"]())
    assert "No bottleneck found" in str(clear)
    assert clear.notes == ("slowest layers: body 50 %, stem 30 %, relu 10 %",)
    for wrong in ({}, None, "x"):
        with pytest.raises(ConfigError, match="explain takes a Profile"):
            wb.explain(wrong)
    with pytest.raises(ConfigError, match="peaks must be MachinePeaks"):
        wb.explain(made["make_profile"](), peaks=3)


def test_layers_side_by_side_by_hand(made):
    make = made["make_profile"]
    rows = [("stem", "Conv", 0.30), ("body.0", "Conv", 0.1), ("body.1", "Conv", 0.1), ("extra", "Cast", 0.02)]
    after = make(rows, plain_ms=0.6, modules=frozenset({"stem", "body", "body.0", "body.1", "relu"}))
    found = wb.compare_profiles(make(), after)
    table = {row.layer: row for row in found.rows}
    assert list(table) == ["body", "relu", "head", "stem", "extra"]
    assert table["body"].before_ms == 0.5 and table["body"].after_ms == pytest.approx(0.2)
    assert table["body"].ratio == pytest.approx(2.5) and table["body"].saved_ms == pytest.approx(0.3)
    assert (table["relu"].state, table["relu"].why) == ("gone", "fused into another node")
    assert (table["head"].state, table["head"].why) == ("gone", "removed from the model")
    assert (table["extra"].state, table["extra"].saved_ms, table["extra"].ratio) == ("new", -0.02, None)
    assert found.speedup == pytest.approx(2.0) and found.saved_ms == pytest.approx(0.6)
    assert "1.2000 -> 0.6000 ms (2.00x speedup)" in str(found) and "gone: fused into another node" in str(found)
    assert found.frame()["layer"].tolist() == list(table)
    assert "untouched" not in rules_of(found.explain())


@pytest.mark.cpu_limit(5)
def test_a_norm_is_gone_where_the_runtime_folds_it(tiny):
    first, second = (wb.profile(tiny, backend=name, threads=1, calls=3) for name in ("torch-eager", "onnxruntime"))
    table = {row.layer: row for row in wb.compare_profiles(first, second).rows}
    assert (table["norm"].state, table["norm"].why) == ("gone", "fused into another node")
    assert table["stem"].state == table["head"].state == "both"


def test_profiles_of_other_work_are_not_compared(made):
    make = made["make_profile"]
    with pytest.raises(ConfigError, match="same task and batch size"):
        wb.compare_profiles(make(), make(batch_size=8))
    with pytest.raises(ConfigError, match="compare_profiles takes a Profile"):
        wb.compare_profiles(make(), 3)
