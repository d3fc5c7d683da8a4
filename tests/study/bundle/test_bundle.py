"""A winner handed over: a folder that runs without torch, says what it is, and is written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT, SUPPORT

import workbench as wb
from workbench.artifact import open_artifact
from workbench.core.errors import ArtifactError, ConfigError, StudyError
from workbench.study.bundle.bundle import engine_options, export_bundle, instruction_words, page, program
from workbench.study.offline import export_stored

WITHOUT_LAB = """
import runpy, sys
sys.path[:0] = [{root!r}, {fixtures!r}]
from runtime_only import Absent
sys.meta_path.insert(0, Absent())
runpy.run_path("run.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def ran(int8_study, shared_task):
    """Return a study of an int8 model, open."""
    with wb.Study(shared_task, storage=f"sqlite:///{int8_study}/s.db") as study:
        yield study


def key_of(study, recipe, backend):
    (row,) = [r for r in study.rows() if (r["recipe"], r["backend"]) == (recipe, backend)]
    return row["trial_key"]


@pytest.mark.slow
def test_the_folder_holds_the_winner_and_runs_without_the_lab(ran, tmp_path):
    folder = ran.export(tmp_path / "winner", trial=key_of(ran, "int8", "onnxruntime"))
    assert {"model.onnx", "io.json", "manifest.json", "engine.json", "README.md", "run.py"} <= {
        path.name for path in folder.iterdir()
    }
    code = WITHOUT_LAB.format(root=str(ROOT), fixtures=str(SUPPORT))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count = len(open_artifact(folder).reference.inputs[0])
    assert f" ms for {count} samples on onnxruntime" in done.stdout
    options = json.loads((folder / "engine.json").read_text())
    assert options == {"backend": "onnxruntime", "batch_size": 4, "threads": 1, "precision": "float32"}
    stored = open_artifact(folder).reference
    with wb.OptimizedInferenceEngine.from_artifact(folder, **options) as engine:
        got = engine.predict(stored.inputs[0]).result
    assert got.shape == stored.outputs[0].shape and np.isfinite(got).all()


@pytest.mark.slow
def test_the_page_says_what_it_is_and_what_was_measured(ran, tmp_path):
    row = next(r for r in ran.rows() if r["recipe"] == "int8")
    text = (ran.export(tmp_path / "w", trial=row["trial_key"]) / "README.md").read_text()
    assert text.startswith("# int8 of task answers\n")
    for words in (
        f"{row['params']:,} parameters",
        row["machine"],
        row["fingerprint"],
        "input `image`: float32 [batch, 1, 8, 8]",
        "Every other dimension of the inputs is fixed.",
        "latency, baseline-normalized",
        "latency as timed, median",
        "first call",
        'pip install "inference-workbench[runtime]"',
        "## Instruction sets",
        "1 thread and",
    ):
        assert words in text, words
    assert "None" not in text and "{" not in text.replace("{root", "")


@pytest.mark.slow
def test_the_winner_of_the_study_is_the_one_that_is_written(ran, tmp_path):
    best = ran.best()
    folder = ran.export(tmp_path / "winner")
    assert open_artifact(folder).manifest["recipe_id"] == best.row["recipe_id"]
    assert best.reason in (folder / "README.md").read_text()
    assert ran.export(folder) == folder  # an artifact there is replaced


@pytest.mark.slow
def test_a_row_on_torch_is_handed_over_with_an_engine_that_runs_there(ran, tmp_path):
    folder = ran.export(tmp_path / "base", trial=key_of(ran, "float", "torch-eager"))
    options = json.loads((folder / "engine.json").read_text())
    assert options["backend"] == "onnxruntime" and options["batch_size"] == 4
    with wb.OptimizedInferenceEngine.from_artifact(folder, **options) as engine:
        assert engine.predict(open_artifact(folder).reference.inputs[0]).result is not None
    text = (folder / "README.md").read_text()
    assert "The figures below are those of torch-eager" in text and "`engine.json` names onnxruntime" in text
    assert "\nOn torch-eager, on " in text
    assert "this is the original on torch-eager" in text and "1 times" not in text


@pytest.mark.slow
def test_without_the_task_the_database_is_enough(ran, tmp_path):
    folder = export_stored(ran.storage, tmp_path / "w")
    assert open_artifact(folder).manifest["recipe_id"] == ran.best().row["recipe_id"]


@pytest.mark.slow
def test_an_artifact_that_is_gone_is_made_again_with_the_task(ran, shared_task, tmp_path):
    row = next(r for r in ran.rows() if r["recipe"] == "int8")
    shutil.copytree(ran.files, tmp_path / "s_files")
    (tmp_path / "s_files" / "artifacts" / row["artifact_key"] / "model.onnx").write_bytes(b"cut")
    storage = f"sqlite:///{tmp_path / 's.db'}"
    with wb.Study(shared_task, storage=storage) as study:
        study.merge(ran.rows())
    with pytest.raises(StudyError, match=r"was changed.*Give the task \(--task\)"):
        export_stored(storage, tmp_path / "w", trial=row["trial_key"])
    assert not (tmp_path / "w").exists()
    folder = export_stored(storage, tmp_path / "w", trial=row["trial_key"], task=shared_task)
    assert open_artifact(folder).manifest["recipe_id"] == row["recipe_id"]
    assert "made again from its recipe" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_nothing_that_met_the_goal_is_told(ran, tmp_path):
    with (
        wb.Study(ran.task, storage=ran.storage, name="empty") as empty,
        pytest.raises(StudyError, match="No row meets"),
    ):
        empty.export(tmp_path / "w")


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["nothing", "", 5])
def test_a_trial_that_is_none_is_told_with_those_that_are(ran, tmp_path, trial):
    with pytest.raises(StudyError, match="trial_key"):
        ran.export(tmp_path / "w", trial=trial)
    with pytest.raises(StudyError, match=key_of(ran, "int8", "onnxruntime")):
        ran.export(tmp_path / "w", trial="nothing")


@pytest.mark.slow
def test_a_beginning_of_several_keys_is_told(ran, tmp_path):
    rows = [{**row, "trial_key": f"same{i}"} for i, row in enumerate(ran.rows())]
    with pytest.raises(StudyError, match="the beginning of several"):
        export_bundle(rows, ran.best(), tmp_path / "w", files=ran.files, trial="same", task=None)


@pytest.mark.slow
def test_other_folders_and_full_disks_leave_nothing_behind(ran, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        ran.export(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="output"):
        ran.export(None)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workbench.study.bundle.bundle.shutil.copyfile", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        ran.export(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_files_of_ones_own_in_an_artifact_are_not_lost(ran, tmp_path, monkeypatch, damaged):
    folder = ran.export(tmp_path / "w")
    (folder / "mine.txt").write_text("do not touch")
    (folder / "rows").mkdir()
    if damaged:
        (folder / "manifest.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr("workbench.study.bundle.bundle._artifact", lambda *_: pytest.fail("work had begun"))
        with pytest.raises(ArtifactError, match=r"would be lost: mine\.txt, rows\. Move them"):
            ran.export(folder)
    assert (folder / "mine.txt").read_text() == "do not touch"
    (folder / "mine.txt").unlink()
    (folder / "rows").rmdir()
    (folder / "run.py").write_text("edited")
    ran.export(folder)
    assert "edited" not in (folder / "run.py").read_text()


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(StudyError, match="does not exist"):
        export_stored(f"sqlite:///{tmp_path}/none.db", tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_database_of_another_task_says_which_it_holds(ran, tmp_path):
    from workbench.tasks.load import load_task

    other = load_task(f"{SUPPORT / 'lengths.py'}:lengths")
    with pytest.raises(StudyError, match=rf"'answers' \(study 'answers', fingerprint {ran.task.fingerprint}\)"):
        export_stored(ran.storage, tmp_path / "w", task=other)


@pytest.mark.slow
def test_a_database_with_several_studies_or_none_asks_for_a_name(ran, shared_task, tmp_path):
    storage = f"sqlite:///{tmp_path}/s.db"
    rows = ran.rows()
    with wb.Study(shared_task, storage=storage, name="one") as study:
        with pytest.raises(StudyError, match="holds no study"):
            export_stored(storage, tmp_path / "w")
        study.merge(rows)
    with wb.Study(shared_task, storage=storage, name="two") as study:
        study.merge(rows)
    with pytest.raises(StudyError, match="the studies 'one', 'two'"):
        export_stored(storage, tmp_path / "w")
    with pytest.raises(StudyError, match=r"holds no study 'three'\. It holds: 'one', 'two'"):
        export_stored(storage, tmp_path / "w", study="three")


@pytest.mark.slow
def test_a_model_without_an_onnx_file_is_refused(ran, tmp_path, monkeypatch):
    artifact = open_artifact(ran.export(tmp_path / "whole"))
    files = {name: entry for name, entry in artifact.manifest["files"].items() if name != "model.onnx"}
    export = {**artifact.manifest["export"], "error": "It branches on values."}
    bare = dataclasses.replace(artifact, manifest={**artifact.manifest, "files": files, "export": export})
    monkeypatch.setattr("workbench.study.bundle.bundle.open_artifact", lambda folder: bare)
    with pytest.raises(StudyError, match="It branches on values"):
        ran.export(tmp_path / "w")


@pytest.mark.parametrize(
    ("step", "dot", "words"),
    [
        (None, True, "computes in float and runs on every CPU"),
        (wb.Quantize(), True, "chosen for a CPU that sums int8 products in 32 bits (here: avx_vnni)"),
        (wb.Quantize(), False, "is safe on every CPU"),
        (wb.Quantize(target="int8_dot"), False, 'make the model again with `Quantize(target="no_int8_dot")`'),
        (wb.Quantize(target="no_int8_dot"), True, "is safe on every CPU"),
        (wb.Quantize(activations="none"), True, "its arithmetic is float"),
    ],
)
def test_the_notes_on_instruction_sets_follow_the_scheme(step, dot, words):
    recipe = wb.Recipe(*([step] if step else [])).to_dict()
    machine = {"cpu_model": "a CPU", "isa": ["avx2", *(["avx_vnni"] if dot else [])], "int8_dot": dot}
    notes = [{"notes": ["Weights use 7 bits."]}] if step else []
    found = instruction_words({"quantized": step is not None, "recipe": recipe, "machine": machine, "steps": notes})
    assert words in found and "It was made on a CPU (avx2" in found
    assert ("- Weights use 7 bits." in found) == (step is not None)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
def test_the_program_gives_inputs_in_the_models_structure(kind):
    from workbench.export.io import IOSpec, TensorSpec

    names = ("a", "b") if kind != "tensor" else ("a",)
    io = IOSpec(kind, tuple(TensorSpec(n, "float32", (2,)) for n in names), (), {})
    text = program(io)
    compile(text, "run.py", "exec")
    line = next(line for line in text.splitlines() if line.startswith("inputs = "))
    stored = {"input_0": 1, "input_1": 2}
    assert eval(line.removeprefix("inputs = "), {"stored": stored}) == {
        "tensor": 1,
        "tuple": (1, 2),
        "dict": {"a": 1, "b": 2},
    }.get(kind)


@pytest.mark.slow
def test_a_row_that_knows_little_makes_a_page_too(ran, tmp_path):
    artifact = open_artifact(ran.export(tmp_path / "w"))
    row = {"recipe": "r", "task": "t", "threads": 2, "batch_size": 1, "backend": "openvino", "fingerprint": "f"}
    row["engine_json"] = "{}"
    assert "| latency" not in page(row, artifact, reason="Because.", runs_on="openvino", remade=False)
    assert engine_options(row)["backend"] == "openvino"


def test_the_options_of_the_engine_that_won_are_handed_over_and_those_of_torch_are_not():
    row = {"backend": "openvino", "batch_size": 4, "threads": 1, "engine_json": '{"precision":"bfloat16","streams":2}'}
    assert engine_options(row) == {
        "backend": "openvino", "batch_size": 4, "threads": 1, "precision": "bfloat16", "streams": 2
    }  # fmt: skip
    torch = {**row, "backend": "torch-eager", "engine_json": '{"memory_format":"channels_last"}'}
    assert engine_options(torch) == {"backend": "onnxruntime", "batch_size": 4, "threads": 1, "precision": "float32"}
