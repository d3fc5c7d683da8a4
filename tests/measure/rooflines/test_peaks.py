"""The machine's peaks: kept and found again, roofs and shares by hand, products that compute what they should."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import BackendUnavailable, ConfigError
from workbench.measure.profiling.work import LayerWork
from workbench.measure.rooflines import peaks as module
from workbench.measure.rooflines.peak_gemm import _openvino_model, products_of
from workbench.measure.rooflines.peaks import cached_peaks, measure_peaks


@pytest.fixture
def small(monkeypatch):
    """Multiply small matrices and copy a small array."""
    monkeypatch.setattr(module, "SIDES", {"cpu": 96, "cuda": 96})
    monkeypatch.setattr(module, "_MIN_COPY", 2**20)
    monkeypatch.setattr(module, "_TIMES_CACHE", 0)
    monkeypatch.setattr(module, "_BLOCK_S", 0.002)


def test_peaks_are_measured_by_every_library_kept_and_found_again(small):
    assert cached_peaks(threads=1) is None
    seen = []
    found = measure_peaks(threads=1, precisions=("float32", "int8"), budget_s=0.0, progress=seen.append)
    libraries = {peak.library for peak in found.tried if peak.precision == "float32"}
    assert libraries == {"torch", "onnxruntime", "openvino"}
    best = max(peak.gflops for peak in found.tried if peak.precision == "float32")
    assert found.of("float32").gflops == best > 0 and found.copy_gb_s > 0 and found.of("bfloat16") is None
    assert found.ridge("float32") == pytest.approx(best / found.copy_gb_s)
    assert cached_peaks(threads=1) == found and cached_peaks(threads=2) is None
    assert seen[-1].done == seen[-1].total and len(seen) == len(found.tried) + 2
    assert "float32" in str(found) and "GB/s" in str(found)


def test_what_the_processor_only_emulates_is_left_out_with_a_note(small, monkeypatch):
    monkeypatch.setattr(module, "native_set", lambda name: None)
    found = measure_peaks(threads=1, precisions=("float32", "bfloat16"), budget_s=0.0, keep=False)
    assert [peak.precision for peak in found.peaks] == ["float32"]
    assert any(note.startswith("bfloat16: not supported") for note in found.notes)
    assert cached_peaks(threads=1) is None


def test_a_library_that_fails_leaves_the_others(small, monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel\nat line 3")

    monkeypatch.setattr("workbench.measure.rooflines.peak_gemm._onnxruntime", broken)
    found = measure_peaks(threads=1, precisions=("float32",), budget_s=0.0, keep=False)
    assert {peak.library for peak in found.tried} == {"torch", "openvino"}
    assert "float32 with onnxruntime: no kernel" in found.notes


def test_products_count_two_operations_for_each_multiplication():
    found = products_of("float32", 32, 1, "cpu")
    assert {product.flop for product in found} == {2 * 32**3}
    assert [product.library for product in products_of("int8", 32, 1, "cpu")] == ["onnxruntime", "openvino"]
    assert [product.library for product in products_of("float16", 32, 1, "cuda")] == ["torch"]
    for product in found + products_of("int8", 32, 1, "cpu"):
        with product.opened() as call:
            given = call()
            if product.library == "onnxruntime":
                assert given[0].dtype == (np.int32 if product.precision == "int8" else np.float32)


def test_openvinos_product_is_one_of_integers_where_the_processor_has_them():
    from workbench.core.machine import this_machine
    from workbench.engine.backends.openvino.runtime import import_openvino, shared_core

    model = _openvino_model(import_openvino(), "int8", 64)
    compiled = shared_core().compile_model(model, "CPU", {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    request.infer({0: np.random.default_rng(0).random((64, 64), np.float32)})
    kinds = {info.node_type: info.exec_type for info in request.get_profiling_info()}
    products = [kind for name, kind in kinds.items() if name.startswith(("FullyConnected", "MatMul"))]
    assert len(products) == 1
    if this_machine().int8_dot:
        assert products[0].lower().endswith(("i8", "u8"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": 0}, "threads must be an integer of at least 1"),
        ({"precisions": "float32"}, "precisions must be some of float32"),
        ({"precisions": ()}, "precisions must be some of"),
        ({"precisions": ("float31",)}, "precisions must be some of"),
        ({"budget_s": -1}, "budget_s must be a number of seconds"),
        ({"device": "gpu"}, "device must be 'cpu' or 'cuda'"),
    ],
)
def test_what_cannot_be_measured_is_said_first(options, words):
    with pytest.raises(ConfigError, match=words):
        measure_peaks(**options)


def test_without_a_cuda_device_its_peaks_are_refused():
    if importlib.util.find_spec("torch") and __import__("torch").cuda.is_available():
        assert measure_peaks(device="cuda", budget_s=0.0, keep=False).of("float32").gflops > 0
        return
    with pytest.raises(BackendUnavailable, match="CUDA device"):
        measure_peaks(device="cuda")


def test_roofs_and_shares_by_hand(made):
    peaks = made["make_peaks"]()
    assert (peaks.ridge("float32"), peaks.ridge("int8"), peaks.ridge("float16")) == (5.0, 15.0, None)
    assert (peaks.roof(2.0, "float32"), peaks.roof(50.0, "float32"), peaks.roof(1.0, "float16")) == (40.0, 100.0, None)
    work = (LayerWork("a", 1_000_000, 10_000, 2_500, (8, 8)), LayerWork("b", 1_000_000, 10_000, 2_500, (8, 8)))
    profile = made["make_profile"]([("a", "Conv", 0.3), ("b", "Conv", 0.1)], work=work, batch_size=4, plain_ms=0.5)
    (point,) = wb.roofline(profile, peaks)
    assert (point.flop_per_sample, point.weight_bytes, point.activation_bytes_per_sample) == (2e6, 80_000, 20_000)
    assert point.intensity == pytest.approx(8e6 / 160_000) and point.bound == "compute"
    assert point.gflops == pytest.approx(8e6 / 0.5e-3 / 1e9) and point.roof_gflops == 100.0
    assert point.share == pytest.approx(0.16) and "16 % of the compute roof" in str(point)


def test_integers_move_fewer_bytes_and_have_a_roof_of_their_own(made):
    rows = [("a", "QLinearConv", 0.4, "int8")]
    work = (LayerWork("a", 1_000_000, 100_000, 0, (8, 8)),)
    (point,) = wb.roofline(made["make_profile"](rows, work=work, plain_ms=1.0), made["make_peaks"]())
    assert (point.precision, point.intensity, point.bound, point.roof_gflops) == ("int8", 10.0, "memory", 200.0)
    rows = [("a", "Conv", 0.4, "float16")]
    (point,) = wb.roofline(made["make_profile"](rows, work=work), made["make_peaks"]())
    assert "no peak of float16" in point.note and point.intensity == 5.0 and point.roof_gflops == 100.0


def test_layers_stand_alone_with_the_time_of_all_their_nodes(made):
    rows = [*made["ROWS"], ("body", "Add", 0.25)]
    points = wb.roofline({"x": made["make_profile"](rows)}, made["make_peaks"](), layers=2)
    assert [point.name for point in points] == ["body", "stem"]
    assert points[0].gflops == pytest.approx(8e6 / 0.75e-3 / 1e9) and points[0].ms == 0.75
    both = wb.roofline({"x": made["make_profile"](), "y": made["make_profile"]()}, made["make_peaks"](), layers=1)
    assert [point.name for point in both] == ["x: body", "y: body"]


def test_a_variant_that_was_not_run_has_a_roof_and_no_share(tiny, tiny_int8, made):
    points = wb.roofline([tiny, tiny_int8], made["make_peaks"](), batch_size=8)
    assert [point.flop_per_sample for point in points] == [2 * tiny.macs] * 2
    assert points[0].gflops is None and points[0].share is None and points[0].roof_gflops > 0
    assert points[1].precision == "int8" and points[1].intensity > 3.9 * points[0].intensity
    assert "not run" in str(points[0])


def test_a_measured_profile_has_the_operations_of_its_variant(tiny, made):
    profile = wb.profile(tiny, batch_size=4, backend="onnxruntime", calls=3)
    (point,) = wb.roofline([profile], made["make_peaks"]())
    assert point.flop_per_sample == 2 * tiny.macs
    assert point.gflops == pytest.approx(2 * tiny.macs * 4 / profile.plain_ms / 1e6)


def test_what_has_no_roof_is_refused(made, tiny):
    with pytest.raises(ConfigError, match="none in the cache"):
        wb.roofline(made["make_profile"]())
    with pytest.raises(ConfigError, match="must be variants or profiles"):
        wb.roofline([3], made["make_peaks"]())
    for empty in ([], {}):
        with pytest.raises(ConfigError, match="at least one"):
            wb.roofline(empty, made["make_peaks"]())
    with pytest.raises(ConfigError, match="matrix product that can be counted"):
        wb.roofline(made["make_profile"](work=()), made["make_peaks"]())
    with pytest.raises(ConfigError, match="layers must be an integer"):
        wb.roofline(made["make_profile"](), made["make_peaks"](), layers=0)
