"""ONNX Runtime's providers, its graph optimizations, the graphs it keeps, and what strict refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from workbench.core.errors import ConfigError, EngineError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine as Engine
from workbench.engine.backends import onnx_files as graph_cache
from workbench.engine.backends.base import Placement, placement_of
from workbench.engine.backends.onnx_files import digest_of, onnx_files
from workbench.engine.backends.onnxruntime.providers import (
    CPU,
    CUDA,
    Providers,
    choose_providers,
    count_nodes,
    device_of,
    fallbacks,
    short_name,
)

KNOWN = onnxruntime.get_all_providers()
TENSORRT = "TensorrtExecutionProvider"
ON_A_GPU = [TENSORRT, CUDA, CPU]
# The one provider besides the CPU's that every build has: it takes nodes of one operator only, which models here lack.
IDLE = "azure"


def chosen(available=ON_A_GPU, **options):
    return choose_providers(InferenceConfig(backend="onnxruntime", **options), names=KNOWN, available=available)


def onnx_engine(variant, **options):
    return Engine.from_variant(variant, backend="onnxruntime", batch_size=4, **options)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, (CPU,)),
        ({"use_gpu": True}, (CUDA, CPU)),
        ({"providers": ("tensorrt", "CUDAExecutionProvider")}, (TENSORRT, CUDA, CPU)),
        ({"providers": ("cpu", "cuda", "cpu")}, (CPU, CUDA)),
    ],
)
def test_providers_come_in_the_order_that_is_asked_for(options, names):
    assert chosen(**options).names == names and chosen(**options).missing == ()


def test_a_gpu_is_looked_for_in_every_build():
    for name in ("DmlExecutionProvider", "CoreMLExecutionProvider"):
        assert chosen([name, CPU], use_gpu=True).names == (name, CPU)
    assert chosen([CPU], use_gpu=True).names == (CPU,)
    (any_gpu,), (cuda,) = chosen([CPU], use_gpu=True).missing, chosen([CPU], device="cuda").missing
    how = "running on the CPU (pip install onnxruntime-gpu on a machine with CUDA)"
    assert any_gpu == f"use_gpu=True, but this ONNX Runtime has no provider for a GPU: {how}"
    assert cuda == f"device='cuda', but this ONNX Runtime has no CUDA provider: {how}"


def test_a_missing_provider_says_how_to_get_it():
    found = chosen([CPU], providers=("openvino", "cpu"))
    assert found.names == (CPU,) and "which has cpu (pip install onnxruntime-openvino)" in found.missing[0]


def test_options_are_handed_over_as_text():
    found = chosen(providers=("cuda",), provider_options={"cuda": {"device_id": 1, "enable_cuda_graph": True}})
    assert found.requested == ((CUDA, {"device_id": "1", "enable_cuda_graph": "1"}), (CPU, {}))
    assert device_of(*found.requested[0]) == "cuda:1"
    assert chosen(provider_options={"cpu": {}}).requested == ((CPU, {}),)
    assert device_of(CPU, {}) == "cpu" and device_of("DmlExecutionProvider", {}) == "gpu"
    assert device_of("OpenVINOExecutionProvider", {"device_type": "GPU.1"}) == "gpu"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"providers": ("cudda",)}, "Did you mean 'cuda'"),
        (
            {"providers": ("cuda",), "provider_options": {"tensorrt": {}}},
            "must be for cuda cpu, got 'tensorrt'",
        ),
        ({"providers": ("cuda",), "provider_options": {"cuda": 3}}, "must be a mapping of options, got 3"),
        (
            {"provider_options": {"nope": {}}},
            r"InferenceConfig\.provider_options: Unknown provider 'nope'.*Allowed: .*cpu",
        ),
        ({"provider_options": {3: {}}}, r"InferenceConfig\.provider_options: Unknown provider 3"),
        (
            {"provider_options": {"cpu": {"use_arena": 0, "a": 1}}},
            "takes no options for 'cpu', got use_arena, a",
        ),
        ({"providers": (IDLE,), "provider_options": {IDLE: {"nope": 1}}}, "for 'azure', got nope"),
    ],
)
def test_wrong_providers_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        chosen(**options)


def test_onnxruntime_still_drops_the_options_that_are_refused(images):
    with onnx_engine(images) as engine:
        options = {"arena_extend_strategy": "rubbish"}
        path = str(engine._keep.path / "model.onnx")
        session = onnxruntime.InferenceSession(path, providers=[("AzureExecutionProvider", options), (CPU, options)])
        assert not any(session.get_provider_options().values())


def test_a_wrong_provider_is_a_config_error_of_the_engine(images):
    with pytest.raises(ConfigError, match=r"Allowed: .*cpu"):
        onnx_engine(images, providers=("abacus",))


@pytest.mark.parametrize("option", [{"providers": ("cpu",)}, {"spin": False}, {"graph_optimization": "none"}])
def test_options_of_onnxruntime_are_refused_elsewhere(option):
    with pytest.raises(ConfigError, match=r"has no effect: it is for the backend onnxruntime"):
        InferenceConfig(backend="openvino", **option)
    InferenceConfig(backend="auto", **option)


def test_short_names():
    assert [short_name(name) for name in ("DmlExecutionProvider", "dml", "directml", CPU)] == [
        "directml",
        "directml",
        "directml",
        "cpu",
    ]


def part(name, count):
    return SimpleNamespace(ep_name=name, get_nodes=lambda: [None] * count)


def test_nodes_are_counted_by_provider():
    assert count_nodes([part(CPU, 1), part(CUDA, 40), part(CPU, 2)]) == {CUDA: 40, CPU: 3}


@pytest.mark.parametrize(
    ("nodes", "running", "named", "words"),
    [
        ({CUDA: 40}, [CUDA, CPU], (), []),
        ({CUDA: 40, CPU: 3}, [CUDA, CPU], (), ["3 of 43 nodes run on the CPU"]),
        ({CUDA: 40, CPU: 3}, [CUDA, CPU], ("cuda", "cpu"), []),
        ({CPU: 43}, [CUDA, CPU], (), ["'cuda' takes none of the model's 43 nodes"]),
        ({CPU: 43}, [CPU], (), ["could not start here"]),
        ({}, [CPU], (), ["could not start here"]),
        ({}, [CUDA, CPU], (), []),
    ],
)
def test_what_fell_back_is_told(nodes, running, named, words):
    asked = Providers(((CUDA, {}), (CPU, {})))
    found = fallbacks(asked, running=running, nodes=nodes, named=named)
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True))


def test_the_placement_counts_the_models_nodes(images):
    with onnx_engine(images) as engine:
        count = len(onnx.load(engine._keep.path / "model.onnx").graph.node)
        assert engine.placement == Placement(CPU, {CPU: count})
        assert str(engine.placement) == f"CPUExecutionProvider ({count} nodes)"
        assert not engine.placement.fallbacks


def test_a_provider_that_takes_nothing_is_told_and_refused_when_strict(images):
    with onnx_engine(images, providers=(IDLE,)) as engine:
        (sentence,) = engine.placement.fallbacks
        assert "provider 'azure' takes none of the model's" in sentence and sentence in engine.notes
        assert engine.placement.place == CPU
    with pytest.raises(EngineError, match="strict=True: provider 'azure' takes none"):
        onnx_engine(images, providers=(IDLE,), strict=True)
    with pytest.raises(EngineError, match="strict=True: provider 'cuda' is not in this ONNX Runtime"):
        onnx_engine(images, providers=("cuda",), strict=True)


def test_strict_refuses_another_device_or_precision(images, backend):
    Engine.from_variant(images, backend=backend, strict=True).dispose()
    import torch

    if torch.cuda.is_available():
        pytest.skip("what is asked for is there: torch sees a CUDA device")
    with pytest.raises(EngineError, match=r"strict=True: use_gpu=True.*running on the CPU"):
        Engine.from_variant(images, backend=backend, use_gpu=True, strict=True)
    if backend == "onnxruntime":
        with pytest.raises(EngineError, match="strict=True: computes in float32, not in bfloat16"):
            Engine.from_variant(images, backend=backend, precision="bfloat16", strict=True)


def test_auto_leaves_out_what_is_not_as_asked(images):
    with pytest.raises(EngineError, match=r"No backend can run .*onnxruntime: onnxruntime does not run .* strict=True"):
        Engine.from_variant(
            images, backend="auto", candidates=("onnxruntime",), providers=(IDLE,), strict=True, threads=1
        )


def test_a_session_of_another_package_needs_no_placement_of_ours():
    assert placement_of(SimpleNamespace(placement="abacus")) == Placement("abacus")


@pytest.mark.parametrize("level", ["none", "basic", "extended", "layout", "all"])
def test_every_level_gives_the_same_outputs(images, level):
    with onnx_engine(images, graph_optimization=level) as engine:
        assert engine.max_abs_diff < 1e-5


@pytest.mark.slow
def test_auto_measures_onnxruntime_with_and_without_waiting_in_a_loop(images):
    options = {"backend": "auto", "candidates": ("onnxruntime",), "batch_size": 2}
    with Engine.from_variant(images, threads=2, **options) as engine:
        assert sorted(map(dict, (c.settings for c in engine.selection)), key=len) == [{}, {"spin": False}]
        assert any("onnxruntime spin=False" in note for note in engine.notes)
    for one_way in ({"threads": 1}, {"threads": 2, "spin": False}, {"threads": 2, "spin": True}):
        with Engine.from_variant(images, **options, **one_way) as engine:
            assert len(engine.selection) == 1


def test_workers_sleep_when_told_to(images, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession

    def spy(path, options, **rest):
        try:
            seen.append(options.get_session_config_entry("session.intra_op.allow_spinning"))
        except Exception:  # noqa: BLE001 - there is no other way to ask whether it is set
            seen.append("")
        return real(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    for spin in (None, True, False):
        onnx_engine(images, spin=spin).dispose()
    assert [entry == "0" for entry in seen] == [False, False, True]


@pytest.fixture
def graphs(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    return tmp_path / graph_cache.FOLDER


def test_a_rewritten_graph_is_kept_and_read_again(images, graphs):
    x = images.task.examples(4).numpy()
    with onnx_engine(images, keep_optimized=True) as engine:
        first = engine.predict(x).result
    (kept,) = graphs.iterdir()
    written = kept.read_bytes()
    with onnx_engine(images, keep_optimized=True) as engine:
        assert any("optimized before" in note for note in engine.notes)
        np.testing.assert_array_equal(engine.predict(x).result, first)
    assert kept.read_bytes() == written
    onnx_engine(images, keep_optimized=True, graph_optimization="basic").dispose()
    assert len(list(graphs.iterdir())) == 2  # another level is another graph


def test_weights_in_a_file_of_any_name_are_part_of_a_models_files(tmp_path):
    weights = np.arange(6000, dtype=np.float32).reshape(1000, 6)
    product = onnx.helper.make_node("MatMul", ["w", "x"], ["y"])
    given, out = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, 2]) for n in "xy")
    graph = onnx.helper.make_graph([product], "g", [given], [out], [onnx.numpy_helper.from_array(weights, "w")])
    model, path = onnx.helper.make_model(graph), tmp_path / "model.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    files = onnx_files(path)
    assert files == [path, tmp_path / "weights.bin"]
    before = digest_of(files)
    files[1].write_bytes(files[1].read_bytes()[::-1])
    assert digest_of(files) != before  # else the graph kept for other weights would be read


def test_a_damaged_graph_is_made_again(images, graphs):
    onnx_engine(images, keep_optimized=True).dispose()
    (kept,) = graphs.iterdir()
    kept.write_bytes(b"nothing")
    with onnx_engine(images, keep_optimized=True) as engine:
        assert engine.max_abs_diff < 1e-5 and not any("optimized before" in note for note in engine.notes)
    assert kept.stat().st_size > 100


def test_where_nothing_can_be_kept_the_engine_runs_and_says_so(images, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file"))
    with onnx_engine(images, keep_optimized=True) as engine:
        assert any("keep_optimized: Cannot write" in note and "nothing is kept" in note for note in engine.notes)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    with onnx_engine(images, keep_optimized=True, providers=(IDLE,)) as engine:
        assert any("a graph compiled by azure cannot be written" in note for note in engine.notes)
    monkeypatch.setattr(graph_cache, "_LARGEST_MIB", 0)
    with onnx_engine(images, keep_optimized=True) as engine:
        assert any("too large for one file" in note for note in engine.notes)
    assert not (tmp_path / graph_cache.FOLDER).exists()


def test_the_oldest_graphs_make_room(graphs, monkeypatch):
    import os

    graphs.mkdir()
    for age, name in enumerate(("new", "middle", "old")):
        (graphs / f"{name}.onnx").write_bytes(b"x" * 2**20)
        os.utime(graphs / f"{name}.onnx", (1000 - age, 1000 - age))
    monkeypatch.setattr(graph_cache, "LIMIT_MIB", 3)
    with graph_cache.writing_graph(graphs / "latest.onnx") as temporary:
        temporary.write_bytes(b"x" * 2**20)
    assert {path.stem for path in graphs.iterdir()} == {"latest", "new", "middle"}
