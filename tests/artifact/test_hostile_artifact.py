"""Hostile values in the files of an artifact: each is refused in one line or quoted, and nothing is executed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from artifact_models import forge, forge_file, make_task
from hostile import shape_of, values
from hostile_artifact import opened, places, put

import workbench as wb
from workbench.artifact import open_artifact
from workbench.core.errors import WorkbenchError
from workbench.study.bundle.bundle import program


@pytest.mark.slow
def test_io_json(copy, content, tmp_path):
    mark, io = tmp_path / "ran", json.loads(content["io.json"])
    clean, tried, kept = shape_of(program(open_artifact(copy).io)), 0, 0
    for path in places(io):
        for value in values(mark):
            forge_file(copy, "io.json", json.dumps(put(io, path, value)).encode())
            code = opened(copy)
            tried += 1
            if code is not None:
                kept += 1
                compile(code, "run.py", "exec")
                if "kind" not in path:
                    assert shape_of(code) == clean, (path, value)
    assert tried > 500 and kept < tried / 2
    assert not mark.exists()


@pytest.mark.slow
def test_manifest_json(copy, content, tmp_path):
    mark = tmp_path / "ran"
    manifest = {k: v for k, v in json.loads(content["manifest.json"]).items() if k not in ("digest", "files")}
    for path in places(manifest):
        if path and path[0] != ("key", "format"):
            for value in values(mark)[::3]:
                (copy / "manifest.json").write_bytes(content["manifest.json"])
                top = path[0][1] if isinstance(path[0], tuple) else path[0]
                forge(copy, **{top: put(manifest, path, value).get(top)})
                opened(copy)
    assert not mark.exists()


@pytest.mark.parametrize("offset", range(4))
def test_structure_json(copy, content, tmp_path, offset):
    mark, task = tmp_path / "ran", make_task()
    structure = json.loads(content["structure.json"])
    for path in list(places(structure))[offset::4]:
        for value in values(mark)[offset::5]:
            forge_file(copy, "structure.json", json.dumps(put(structure, path, value)).encode())
            opened(copy, task)
    assert not mark.exists()


def test_a_student_of_the_manifest_is_not_called(copy, content, tmp_path):
    (tmp_path / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f():\n    open({str(tmp_path / 'ran')!r}, 'w')\n"
    )
    student = f"{tmp_path / 'evil.py'}:f"
    recipe = wb.Recipe(wb.Distill(student=student, epochs=1)).to_dict()
    for forged in ({"base": student}, {"recipe": recipe}, {"base": student, "recipe": recipe}):
        (copy / "manifest.json").write_bytes(content["manifest.json"])
        forge(copy, **forged)
        with pytest.raises(WorkbenchError, match="trust=True"):
            wb.load_variant(copy, make_task())
    assert not (tmp_path / "ran").exists()


def external(tmp_path, location):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weight],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    assert onnx.load(str(path), load_external_data=False)
    return path


@pytest.mark.parametrize("location", ["/dev/zero", "../secret.bin", "/etc/passwd", "zero", "pipe", "none.bin"])
@pytest.mark.parametrize("keep", [False, True])
def test_external_data_of_a_file_stays_beside_it(tmp_path, location, keep):
    import os

    (tmp_path / "secret.bin").write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    path = external(folder, location)
    with pytest.raises(WorkbenchError):
        wb.OptimizedInferenceEngine(
            wb.InferenceConfig(model_path=str(path), backend="onnxruntime", keep_optimized=keep)
        ).initialize()


def test_external_data_beside_the_file_or_behind_the_same_links_is_read(tmp_path):
    """A cache of downloads keeps links to one folder of contents, as that of Hugging Face does."""
    store, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    snapshot.mkdir()
    np.ones(4, np.float32).tofile(store / "w.bin")
    path = external(store, "w.bin")
    for name in ("w.bin", "model.onnx"):
        (snapshot / name).symlink_to(store / name)
    for found in (path, snapshot / "model.onnx"):
        from workbench.engine.backends.onnx_files import onnx_files

        assert [file.name for file in onnx_files(found)] == ["model.onnx", "w.bin"]
