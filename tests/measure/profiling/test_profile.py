"""Profiles of all runtimes in one schema: layers by name, times as the runtime wrote them, nothing left behind."""

from __future__ import annotations

import gc
import json
import math
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import BackendUnavailable, ConfigError
from workbench.measure.accuracy.activation_taps import owner_of
from workbench.measure.profiling.nodes import cut_median
from workbench.measure.profiling.onnxruntime import by_node
from workbench.measure.profiling.op_kinds import KINDS, is_product, kind_of
from workbench.measure.profiling.openvino import mean_behind
from workbench.measure.profiling.torch import operators

ENGINES = ["torch-eager", "onnxruntime", "openvino"]
PRODUCTS = ["stem", "inner1", "inner2", "down", "hidden", "head"]


@pytest.mark.parametrize("backend", ENGINES)
def test_every_runtime_gives_the_layers_of_the_module_in_one_schema(tiny, backend):
    found = wb.profile(tiny, batch_size=4, backend=backend, threads=1, calls=6)
    products = [row for row in found.rows if set(row.layer.split(" + ")) & set(PRODUCTS) and row.shape is not None]
    assert [layer for row in products for layer in row.layer.split(" + ")] == PRODUCTS  # some are computed together
    assert {row.precision for row in products} == {"float32"}
    assert all(row.shape[0] == 4 for row in products)
    assert [row.shape for row in products][-1] == (4, 4)
    assert sum(row.share for row in found.rows) == pytest.approx(1.0)
    assert found.total_ms == pytest.approx(sum(row.ms for row in found.rows))
    assert all(math.isfinite(row.ms) and row.ms >= 0 for row in found.rows)
    assert found.plain_ms > 0 and found.profiled_ms > 0 and found.calls == 6
    assert (found.backend, found.batch_size, found.threads, found.macs) == (backend, 4, 1, tiny.macs)
    where = {"torch-eager": "cpu", "onnxruntime": "CPUExecutionProvider", "openvino": "CPU"}[backend]
    assert {row.provider for row in found.rows} == {where}
    assert set(PRODUCTS) | {"norm"} <= found.modules


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_integers_are_seen_where_they_are_computed(tiny_int8, backend):
    found = wb.profile(tiny_int8, batch_size=4, backend=backend, threads=1, calls=5)
    products = [row for row in found.rows if is_product(row.op)]
    assert [row.layer for row in products][:4] == PRODUCTS[:4]
    assert [row.precision for row in products][:4] == ["int8"] * 4
    assert {layer for row in found.rows for layer in row.layer.split(" + ")} >= set(PRODUCTS)
    assert found.quantized


def test_torch_names_the_operators_of_every_module_in_their_order(tiny):
    found = wb.profile(tiny, backend="torch-eager", threads=1, calls=5)
    rows = [(row.layer, row.op) for row in found.rows]
    block = [("norm", "aten::batch_norm"), ("relu", "aten::relu"), ("inner1", "aten::conv2d")]
    assert rows[:4] == [("stem", "aten::conv2d"), *block]
    assert rows[-4:] == [
        ("mean", "aten::mean"), ("hidden", "aten::linear"), ("relu_4", "aten::relu"), ("head", "aten::linear"),
    ]  # fmt: skip
    assert tiny.module._forward_hooks == {} and not any(m._forward_hooks for m in tiny.module.modules())


def test_simulated_int8_in_torch_is_seen_as_roundings_and_products_of_its_layers(tiny_int8):
    found = wb.profile(tiny_int8, backend="torch-eager", threads=1, calls=5)
    assert [row.layer for row in found.rows if is_product(row.op)] == PRODUCTS
    assert sum("quantize_per" in row.op for row in found.rows) > len(PRODUCTS)


@pytest.mark.cpu_limit(5)
@pytest.mark.parametrize("backend", [pytest.param("torch-eager", marks=pytest.mark.slow), *ENGINES[1:]])
def test_a_trace_is_written_and_nothing_else_is_left(tiny, backend, tmp_path, monkeypatch):
    scratch, target = tmp_path / "scratch", tmp_path / "out" / "trace.json"
    scratch.mkdir()
    wb.profile(tiny, backend=backend, calls=2)  # the export of the variant lives as long as it does
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(scratch)
    found = wb.profile(tiny, backend=backend, calls=3, trace=target)
    assert found.trace == target
    events = json.loads(target.read_text())
    events = events["traceEvents"] if isinstance(events, dict) else events
    names = " ".join(str(event.get("name")) for event in events)
    wanted = {"torch-eager": "workbench layer: stem", "onnxruntime": "model_run", "openvino": found.rows[0].node}
    assert wanted[backend] in names
    assert all("dur" in event for event in events if event.get("ph") == "X")
    del found
    gc.collect()
    assert list(scratch.iterdir()) == [] and [path.name for path in target.parent.iterdir()] == ["trace.json"]


def test_the_frames_add_up_and_the_text_shows_the_profilers_own_share(made):
    profile = made["make_profile"]([*made["ROWS"], ("body", "Add", 0.2)])
    layers = profile.by_layer().set_index("layer")
    assert layers.loc["body", "ms"] == pytest.approx(0.7) and layers.loc["body", "op"] == "Conv, Add"
    assert layers.index[0] == "body" and layers["nodes"].sum() == 5
    ops = profile.by_op().set_index("op")
    assert ops.loc["Conv", "ms"] == pytest.approx(0.8) and ops["share"].sum() == pytest.approx(1.0)
    assert profile.outside_ms == 0.0 and profile.overhead_ms == pytest.approx(0.3)
    text = str(profile)
    assert (
        "+25 % profiler overhead" in text and "sum of 5 rows  1.2000 ms" in text and "plain call        1.2000" in text
    )
    assert made["make_profile"]().outside_ms == pytest.approx(0.2)


def test_the_precision_asked_for_is_in_the_rows_where_the_processor_has_it(tiny):
    found = wb.profile(tiny, batch_size=4, backend="openvino", precision="bfloat16", calls=4)
    assert found.requested == "bfloat16"
    kinds = {row.precision for row in found.rows if is_product(row.op)}
    assert (found.precision in kinds) and (found.precision == "float32") == ("bfloat16" not in kinds)


def test_given_inputs_bring_their_own_batch(tiny):
    found = wb.profile(tiny, tiny.task.examples(3).numpy(), backend="onnxruntime", calls=2)
    assert found.batch_size == 3 and found.rows[0].shape[0] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "auto"}, "must name one engine"),
        ({"backend": "onnxrt"}, "Unknown backend 'onnxrt'"),
        ({"backend": 3}, "Unknown backend"),
        ({"calls": 0}, "calls must be an integer of at least 1"),
        ({"batch_size": "8"}, "batch_size must be an integer"),
        ({"trace": "trace.txt"}, "a .json file name"),
        ({"trace": 3}, "a .json file name"),
        ({"precision": "bf17"}, "Unknown precision"),
        ({"thread": 2}, "threads"),
        ({"inputs": [[1.0]], "batch_size": 4}, "leave out batch_size=4"),
    ],
)
def test_what_cannot_be_profiled_is_said_first(tiny, options, words):
    with pytest.raises(ConfigError, match=words):
        wb.profile(tiny, **options)
    with pytest.raises(ConfigError, match="must be a Variant, got 'tiny'"):
        wb.profile("tiny")


def test_a_backend_that_is_missing_is_said(tiny, monkeypatch):
    from workbench.engine.backends.base import Availability
    from workbench.engine.backends.openvino.backend import OpenVino

    monkeypatch.setattr(OpenVino, "status", lambda self: Availability("openvino", False, None, "gone", "get it"))
    with pytest.raises(BackendUnavailable, match="gone"):
        wb.profile(tiny, backend="openvino")


def test_compiled_code_is_said_to_hide_its_layers(tiny):
    found = wb.profile(tiny, backend="torchscript", threads=1, calls=2)
    assert "without their layers" in found.notes[-1]
    assert any(row.op.startswith("aten::") for row in found.rows)


def seen(name, start, *inside, cpu=0.0, device=0.0):
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start),
        cpu_children=list(inside),
        cpu_time_total=cpu,
        device_time_total=device,
    )


@pytest.mark.parametrize(("device", "ms"), [("cpu", [0.004, 0.002, 0.001]), ("cuda:0", [0.04, 0.02, 0.01])])
def test_on_a_gpu_an_operator_takes_what_its_kernels_take(device, ms):
    inner = seen("aten::convolution", 4, cpu=3, device=40)
    conv = seen("workbench layer: conv", 2, seen("aten::conv2d", 3, inner, cpu=4, device=40))
    relu = seen("aten::relu", 9, seen("cudaLaunchKernel", 9, cpu=1), cpu=2, device=20)
    add = seen("Torch-Compiled Region", 10, seen("aten::add", 11, cpu=1, device=10))
    call = seen("workbench call", 0, seen("aten::to", 1, cpu=9), seen("workbench layer: ", 2, relu, add, conv))
    found = list(operators(call, None, device))
    assert [(one.op, one.layer) for one in found] == [("aten::conv2d", "conv"), ("aten::relu", ""), ("aten::add", "")]
    assert [one.ms for one in found] == ms


def event(name, ts, dur, op="Conv"):
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": op}}


def run(ts):
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": 90}


def test_events_are_told_apart_by_call_and_containers_do_not_count_twice():
    events = [run(0), event("a", 1, 9), event("b", 20, 5)]
    for start, dur in ((100, 7), (200, 8)):
        events += [event("loop", start + 30, 50, "Loop"), event("b", start + 40, 2), event("b", start + 50, 3)]
        events += [event("a", start + 1, dur), run(start)]
    events.append({"cat": "Node", "name": "a_fence_before", "ts": 201, "dur": 1, "args": {"op_name": "Conv"}})
    found = by_node(events, 2)
    assert list(found) == [("a", "Conv"), ("b", "Conv")]
    assert [[e["dur"] for e in call] for call in found["a", "Conv"]] == [[7], [8]]
    assert [[e["dur"] for e in call] for call in found["b", "Conv"]] == [[2, 3], [2, 3]]


def test_times_that_were_cut_to_whole_microseconds_are_put_right():
    rng = np.random.default_rng(0)
    for middle in (1.3, 4.8, 27.6):
        true = rng.normal(middle, 0.8, 2001).clip(0)
        assert cut_median(np.floor(true)) == pytest.approx(np.median(true), abs=0.12)
    assert cut_median([4, 5]) == 5.0 and cut_median([1, 9]) == 5.5


def test_openvinos_averages_give_the_mean_behind_the_first_calls():
    rng = np.random.default_rng(1)
    for _ in range(50):
        warm, calls = 3, 40
        times = np.concatenate([rng.uniform(100, 400, warm), rng.uniform(5, 15, calls)])
        before, after = math.floor(times[:warm].mean()), math.floor(times.mean())
        assert mean_behind(before, after, warm, calls) == pytest.approx(times[warm:].mean(), abs=0.6)


def test_operators_are_sorted_by_what_they_do():
    names = {
        "product": ["Conv", "aten::conv2d", "Convolution", "FullyConnected", "aten::linear", "QLinearConv", "aten::mm",
                    "FusedMatMul", "ConvInteger", "DynamicQuantizeMatMul", "aten::scaled_dot_product_attention"],
        "precision change": ["QuantizeLinear", "DequantizeLinear", "Convert", "Cast", "Reorder", "ReorderOutput",
                             "DynamicQuantizeLinear",
                             "quantized_decomposed::quantize_per_tensor", "FakeQuantize", "aten::to"],
        "norm": ["aten::batch_norm", "LayerNormalization"],
        "reduction": ["GlobalAveragePool", "aten::mean", "Softmax", "ReduceMean", "aten::adaptive_avg_pool2d"],
        "moves": ["Transpose", "aten::flatten", "Concat", "Gather", "Reshape"],
        "elementwise": ["Relu", "Add", "QLinearAdd", "aten::relu", "Eltwise", "Gelu"],
    }  # fmt: skip
    assert set(names) == set(KINDS)
    for kind, ops in names.items():
        assert {op: kind_of(op) for op in ops} == dict.fromkeys(ops, kind)
    assert owner_of(["x", "a.b.bias_quantized"]) == "a.b" and owner_of(["x", "weightless"]) is None
