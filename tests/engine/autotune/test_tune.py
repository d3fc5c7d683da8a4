"""Tuning: what is chosen of made-up speeds, and real engines that go on with it; times themselves are not asserted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from engine_models import Images, make_variant

import workbench as wb
from workbench.core.errors import ConfigError, EngineError, InputError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine, TuneResult
from workbench.engine.autotune import api, autotuner
from workbench.engine.autotune.api import config_for_backend, model_digest
from workbench.engine.autotune.result import TunedSetting, judge
from workbench.engine.backends.base import Placement
from workbench.engine.loading.source import source_from_path, source_from_variant

Engine = OptimizedInferenceEngine


@pytest.fixture
def speeds(monkeypatch):
    """Return how the speed of a config is made up: factors by (option, value) on 10 ms, and noise."""
    factors: dict = {"noise": 0.01}
    generator = np.random.default_rng(0)

    class Made:
        notes: tuple[str, ...] = ()

        def __init__(self, config):
            self.config = config
            self.parallel_calls, self.threads = config.streams or 1, config.threads or 4

        def run(self, inputs):
            return [], 0.0

        def close(self):
            pass

    class Arm:
        def __init__(self, name, call, calls):
            self.name, self._config = name, call.func.__self__.config

        def block(self, seconds):
            options = {**self._config.to_dict(), "threads": self._config.threads or 4}
            ms = 10.0 * np.prod(
                [factors.get((name, options[name]), 1.0) for name in ("threads", "memory_format", "streams", "spin")]
            )
            return list(ms * np.exp(generator.normal(0, factors["noise"], 5)))

    class Loaded:
        def __init__(self, source, config):
            if config.threads in factors.get("broken", ()):
                raise EngineError("no room")
            self.session = Made(config)

    monkeypatch.setattr(autotuner, "load_checked", Loaded)
    monkeypatch.setattr(autotuner, "_timed_arm", Arm)
    monkeypatch.setattr(autotuner, "available_cores", lambda: 8)
    monkeypatch.setattr(autotuner, "default_threads", lambda: 4)
    return factors


def search(images, *, backend="torch-eager", goal="latency", budget_s=60.0, **options) -> TuneResult:
    source = source_from_variant(images, onnx=False, batch=2)
    config = InferenceConfig(backend=backend, **options)
    return autotuner.Autotuner(source, config, [], goal=goal, budget_s=budget_s).tune()


class TestSearch:
    def test_each_option_is_tried_on_top_of_the_best_so_far_and_the_last_measurement_decides(self, images, speeds):
        speeds |= {
            ("threads", 1): 1.5,
            ("threads", 2): 0.8,
            ("threads", 8): 1.1,
            ("memory_format", "channels_last"): 0.5,
        }
        found = search(images)
        assert found.changes == {"threads": 2, "memory_format": "channels_last"}
        assert found.config == InferenceConfig(backend="torch-eager", threads=2, memory_format="channels_last")
        assert [(row.stage, row.name) for row in found.table] == [
            ("default", "default (4 threads)"),
            ("threads", "threads=1"),
            ("threads", "threads=2"),
            ("threads", "threads=8"),
            ("memory_format", "threads=2"),
            ("memory_format", "threads=2, memory_format='channels_last'"),
            ("final", "threads=2, memory_format='channels_last'"),
        ]
        ratios = {row.name: row.ratio for row in found.table}
        wanted = {"threads=1": 1.5, "threads=2": 0.8, "threads=8": 1.1, found.table[-1].name: 0.4}
        for name, ratio in wanted.items():
            assert ratios[name] == pytest.approx(ratio, rel=0.01)
        final = found.table[-1]
        assert final.ratio_low < 0.4 < final.ratio_high < 0.41 and final.median_ms == pytest.approx(4.0, rel=0.01)
        assert found.verdict.startswith("Chosen: threads=2, memory_format='channels_last', 0.")
        assert "of the default's time (95 % CI 0." in found.verdict

    def test_what_is_not_clearly_faster_leaves_the_default(self, images, speeds):
        speeds["noise"] = 0.2
        found = search(images)
        assert found.changes == {} and found.config == InferenceConfig(backend="torch-eager")
        assert found.verdict.startswith("The default stays: ")

    def test_luck_of_the_first_comparison_does_not_win(self, images, speeds, monkeypatch):
        speeds[("threads", 2)] = 0.5
        plain = autotuner.interleave

        def unlucky(arms, *, rounds, **options):
            if [arm.name for arm in arms] == ["default", "threads=2"] and rounds[1] == 40:
                speeds[("threads", 2)] = 1.0
            return plain(arms, rounds=rounds, **options)

        monkeypatch.setattr(autotuner, "interleave", unlucky)
        found = search(images, backend="torch-eager")
        assert [row.stage for row in found.table][-1] == "final" and found.changes == {}
        assert "wholly below 1" in found.verdict

    def test_few_rounds_decide_nothing(self, images, speeds, monkeypatch):
        speeds[("threads", 2)] = 0.5
        monkeypatch.setattr(autotuner, "_ROUNDS", 3)
        found = search(images)
        assert found.changes == {} and "only 3 rounds fitted into the time, and 6 are needed" in found.verdict
        assert not found.decided
        speeds |= {("threads", n): 1.5 for n in (1, 2, 8)} | {("memory_format", "channels_last"): 1.5}
        found = search(images)
        assert not found.decided and "clearly faster, but only 3 rounds fitted" in found.verdict

    def test_no_time_is_said(self, images, speeds):
        found = search(images, budget_s=1e-9)
        assert found.changes == {} and "the time was up. Give a larger budget_s." in found.verdict
        assert {row.reason for row in found.table} == {"not measured: the time was up"} and not found.decided

    def test_what_does_not_load_is_in_the_table_with_its_reason(self, images, speeds):
        speeds |= {"broken": (8,), ("threads", 1): 0.5}
        found = search(images)
        (row,) = [row for row in found.table if row.changes == {"threads": 8}]
        assert row.reason == "no room" and row.median_ms is None and str(row) == "threads=8: no room"
        assert found.changes == {"threads": 1}
        assert found.decided
        speeds["broken"] = (1, 2, 8)
        assert search(images).table[0].stage == "default"  # first also where the first option gave nothing

    def test_throughput_tries_streams_of_openvino_first(self, images, speeds):
        speeds[("streams", 4)] = 0.5
        found = search(images, backend="openvino", goal="throughput")
        stages = list(dict.fromkeys(row.stage for row in found.table))
        assert stages == ["default", "streams", "threads", "final"] and found.changes == {"streams": 4}
        assert {row.changes["streams"] for row in found.table if row.stage == "streams"} == {2, 4, 8}
        assert "streams" not in {row.stage for row in search(images, backend="openvino").table}

    def test_workers_of_onnxruntime_that_do_not_spin_are_tried_unless_there_are_none(self, images, speeds):
        speeds |= {("threads", 2): 0.8, ("spin", False): 0.5}
        found = search(images, backend="onnxruntime")
        assert found.changes == {"threads": 2, "spin": False}
        assert search(images, backend="onnxruntime", spin=False).changes == {"threads": 2}
        speeds[("threads", 1)] = 0.2
        (row,) = [row for row in search(images, backend="onnxruntime").table if "spin" in row.changes]
        assert row.reason == "not measured: with one thread there is no worker that could spin"

    def test_own_threads_are_the_default_that_others_are_held_against(self, images, speeds):
        found = search(images, threads=2)
        assert found.table[0].name == "default (2 threads)"
        assert {row.changes.get("threads") for row in found.table if row.stage == "threads"} == {1, 4, 8}


@pytest.mark.parametrize("backend", ["torch-eager", "torchscript", "onnxruntime", "openvino"])
@pytest.mark.parametrize("goal", ["latency", "throughput"])
def test_real_engines_go_on_right_after_tuning(images, backend, goal):
    x = images.task.examples(4)
    with torch.no_grad():
        expected = images.module(x).numpy()
    with Engine.from_variant(images, backend=backend, batch_size=4) as engine:
        found = engine.tune(budget_s=1.0, goal=goal)
        assert not found.cached and found.batch_size == 4 and found.backend == backend and found.goal == goal
        assert engine.config == found.config == InferenceConfig(backend=backend, batch_size=4, **found.changes)
        np.testing.assert_allclose(engine.predict(x.numpy()).result, expected, atol=1e-5)
        assert bool(found.changes) == any(note.startswith(f"tuned for {goal}") for note in engine.notes)
        assert found.seconds > 0 and str(found) == found.verdict


@pytest.fixture
def quick(monkeypatch):
    """Make every search choose one thread at once, and count them."""
    searches = []

    def result(self):
        searches.append(self._config)
        row = TunedSetting("threads=1", "final", {"threads": 1}, 1.0, 0.5, 0.4, 0.6, 9)
        changed = self._config.replace(threads=1)
        return TuneResult(
            self._config.backend, 4, self._goal, {"threads": 1}, changed, (row,), "Chosen: threads=1.", 0.1
        )

    monkeypatch.setattr(autotuner.Autotuner, "tune", result)
    return searches


def test_a_result_is_kept_for_the_next_engine_and_measured_again_on_request(images, quick):
    options = {"backend": "onnxruntime", "batch_size": 4}
    with Engine.from_variant(images, **options) as engine:
        first = engine.tune()
        assert engine.threads == 1 and engine.config.threads == 1 and "tuned for latency: threads=1" in engine.notes
        assert engine.tune() == dataclasses.replace(first, cached=True)
        assert len(quick) == 1
        assert not engine.tune(again=True).cached and len(quick) == 2
        assert quick[1] == quick[0] == InferenceConfig(**options)  # from its own config, not from the tuned one
    with Engine.from_variant(images, **options) as other:
        found = other.tune()
        assert found.cached and found.table == first.table and other.threads == 1 and len(quick) == 2
        assert other.predict(images.task.examples(4).numpy()).result.shape == (4, 5)


def test_what_the_time_did_not_suffice_for_is_not_kept_and_replaces_nothing(images, monkeypatch):
    def result(self):
        done = self._budget >= 10
        row = TunedSetting("threads=1", "final", {"threads": 1}, 1.0, 0.5, 0.4, 0.6, 9 if done else 2)
        verdict = judge(row, [row])
        changes = {"threads": 1} if verdict.won else {}
        config = self._config.replace(**changes)
        found = TuneResult(self._config.backend, 4, self._goal, changes, config, (row,), verdict.text, 0.1)
        return dataclasses.replace(found, decided=verdict.decided)

    monkeypatch.setattr(autotuner.Autotuner, "tune", result)
    with Engine.from_variant(images, backend="onnxruntime", batch_size=4, threads=2) as engine:
        short = engine.tune(budget_s=1)
        assert not short.decided and short.notes == ("not kept for the next time: the time did not suffice for one",)
        complete = engine.tune(budget_s=20)
        assert complete.decided and not complete.cached and engine.threads == 1
        assert "an earlier result stays" in engine.tune(budget_s=1, again=True).notes[0] and engine.threads == 2
        found = engine.tune(budget_s=1)
        assert found.cached and found.table == complete.table and engine.threads == 1


@pytest.mark.slow
def test_another_question_is_measured_anew(images, quick):
    other = make_variant(Images, torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        other.module.head.bias.add_(1.0)
    several = [
        (images, {"backend": "onnxruntime"}, {}),
        (images, {"backend": "openvino"}, {}),
        (images, {"backend": "torch-eager"}, {}),
        (images, {"backend": "onnxruntime", "batch_size": 8}, {}),
        (images, {"backend": "onnxruntime", "threads": 2}, {}),
        (images, {"backend": "onnxruntime"}, {"goal": "throughput"}),
        (other, {"backend": "onnxruntime"}, {}),
        (other, {"backend": "torch-eager"}, {}),
    ]
    for variant, options, how in several:
        with Engine.from_variant(variant, **{"batch_size": 4, **options}) as engine:
            assert not engine.tune(**how).cached
            assert engine.tune(**how).cached
    assert len(quick) == len(several)


@pytest.mark.parametrize("text", ["", "{}", '{"result": {"table": [], "notes": [], "changes": {"thread": 1}}}', "[1]"])
def test_a_damaged_result_is_measured_again(images, quick, text):
    with Engine.from_variant(images, backend="onnxruntime", batch_size=4) as engine:
        engine.tune()
        (path,) = (wb.core.files.cache_dir() / "tuning").glob("*.json")
        json.loads(path.read_text())
        path.write_text(text)
        assert not engine.tune().cached and engine.tune().cached


def test_a_cache_that_cannot_be_written_costs_a_note_only(images, quick, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file"))
    with Engine.from_variant(images, backend="onnxruntime", batch_size=4) as engine:
        found = engine.tune()
        assert any(note.startswith("not kept for the next time: Cannot write") for note in found.notes)
        assert engine.threads == 1


@pytest.mark.slow
def test_auto_is_tuned_on_the_backend_it_chose(images, quick):
    with Engine.from_variant(images, backend="auto", candidates=("onnxruntime",), batch_size=4) as engine:
        selection = engine.selection
        engine.tune()
        assert quick[0] == InferenceConfig(backend="onnxruntime", batch_size=4, **selection[0].settings)
        assert engine.backend == "onnxruntime" and engine.selection == selection
        assert any(note.startswith("auto: ") for note in engine.notes)


def test_options_of_other_backends_are_dropped_from_the_config_of_auto():
    config = InferenceConfig(memory_format="channels_last", streams=2, graph_optimization="basic", batch_size=3)
    alone = {"batch_size": 3}
    assert config_for_backend(config, "torch-eager", {}) == InferenceConfig(
        backend="torch-eager", memory_format="channels_last", **alone
    )
    assert config_for_backend(config, "openvino", {}) == InferenceConfig(backend="openvino", streams=2, **alone)
    found = config_for_backend(config, "onnxruntime", {"spin": False})
    assert found == InferenceConfig(backend="onnxruntime", graph_optimization="basic", spin=False, **alone)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"budget_s": 0}, ConfigError, "budget_s must be a number of seconds above 0"),
        ({"budget_s": "soon"}, ConfigError, "budget_s"),
        ({"budget_s": float("nan")}, ConfigError, "budget_s"),
        ({"goal": "latencyy"}, ConfigError, "Did you mean 'latency'"),
        ({"inputs": np.zeros((3, 3, 8, 8), np.float32)}, InputError, "must have 4 samples"),
        ({"inputs": np.zeros((4, 3, 8, 9), np.float32)}, InputError, "shape"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_work_starts(images, quick, options, error, words):
    with Engine.from_variant(images, backend="onnxruntime", batch_size=4) as engine:
        with pytest.raises(error, match=words):
            engine.tune(**options)
        engine.placement = Placement("cuda:0")
        with pytest.raises(ConfigError, match=r"settings of the CPU, and this engine runs on cuda:0\. Load it without"):
            engine.tune()
    assert quick == []


def test_an_engine_that_is_not_ready_says_so(saved):
    engine = Engine(InferenceConfig(model_path=str(saved.folder), backend="onnxruntime"))
    with pytest.raises(EngineError, match="not initialized"):
        engine.tune()
    engine.initialize().dispose()
    with pytest.raises(EngineError, match="disposed"):
        engine.tune()


def test_a_model_without_examples_needs_inputs(tmp_path, quick):
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", "length"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "open", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with Engine(InferenceConfig(model_path=tmp_path / "m.onnx", backend="onnxruntime", batch_size=2)) as engine:
        with pytest.raises(EngineError, match=r"has no examples\. Give inputs=2 samples"):
            engine.tune()
        assert not engine.tune(inputs=np.zeros((2, 7), np.float32)).cached
        assert not engine.tune(inputs=np.zeros((2, 8), np.float32)).cached
        assert engine.tune(inputs=np.ones((2, 7), np.float32)).cached


def test_a_format_that_does_nothing_is_not_measured(words):
    with Engine.from_variant(words, backend="torch-eager", batch_size=4) as engine:
        found = engine.tune(budget_s=2.0)
    (row,) = [row for row in found.table if "channels_last" in row.name]
    assert "no weight or input with four dimensions" in row.reason


def test_the_digest_follows_the_weights_also_those_outside_the_file(tmp_path):
    def write(folder: Path, value: float) -> Path:
        helper = onnx.helper
        folder.mkdir()
        ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 512]) for name in ("x", "y")]
        weight = onnx.numpy_helper.from_array(np.full(512, value, np.float32), "w")
        graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location="side.bin", size_threshold=0)
        return folder / "m.onnx"

    one, same, two = (write(tmp_path / name, value) for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)))
    assert one.read_bytes() == two.read_bytes()
    digests = [model_digest(source_from_path(path), "onnxruntime") for path in (one, same, two)]
    assert digests[0] == digests[1] != digests[2]
    assert api.FORMAT == 2


def test_a_winner_that_does_not_load_leaves_the_engine_as_it_was(images, quick, monkeypatch):
    with Engine.from_variant(images, backend="onnxruntime", batch_size=4) as engine:
        config, notes = engine.config, engine.notes

        def fail(source, config):
            raise EngineError("no memory left")

        monkeypatch.setattr("workbench.engine.engine.load_checked", fail)
        with pytest.raises(EngineError, match="no memory left"):
            engine.tune()
        assert engine.config == config and engine.notes == notes
        assert engine.predict(images.task.examples(4).numpy()).result.shape == (4, 5)
