"""What is cut, changed, forged or half written is refused with the reason; what was there before stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from artifact_models import forge, forge_file, make_variant, pruned
from paths import SUPPORT

import workbench as wb
from workbench.artifact import open_artifact
from workbench.artifact.atomic_folder import replacing_folder
from workbench.artifact.manifest import FILES, MANIFEST
from workbench.core.errors import ArtifactError

WRITTEN = ("manifest.json", "model.onnx", "weights.safetensors", "structure.json", "io.json", "reference.npz")


def test_these_files_are_written(content):
    assert set(content) == set(WRITTEN)


def refused(folder, *words):
    with pytest.raises(ArtifactError) as caught:
        wb.load_variant(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_flipped_byte_anywhere_is_noticed_and_the_file_named(copy, content, name):
    data = content[name]
    for place in {0, len(data) - 2, *range(7, len(data), max(1, len(data) // 40))}:
        for bit in (1, 32):
            changed = bytearray(data)
            changed[place] ^= bit
            (copy / name).write_bytes(bytes(changed))
            refused(copy, name)
    (copy / name).write_bytes(data)
    open_artifact(copy)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_cut_or_longer_or_empty_file_is_noticed_and_named(copy, content, name):
    data = content[name]
    for changed in (data[: len(data) // 2], data[:-3], b"", data + b"\0" * 9):
        (copy / name).write_bytes(changed)
        refused(copy, name)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_missing_file_or_a_link_in_its_place_is_refused(copy, name):
    elsewhere = copy.parent / "elsewhere"
    (copy / name).rename(elsewhere)
    refused(copy, name)
    (copy / name).symlink_to(elsewhere)
    refused(copy, name, "symbolic link")
    (copy / name).unlink()
    (copy / name).mkdir()
    refused(copy, name, "not a regular file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_hang_the_reader(copy):
    (copy / "model.onnx").unlink()
    os.mkfifo(copy / "model.onnx")
    refused(copy, "model.onnx", "not a regular file")


def test_a_newer_format_says_so_and_what_to_do(copy):
    forge(copy, format=4)
    refused(copy, "newer workbench", "artifact format 4", "Update inference-workbench")
    for old in (1, 0, -1, None, "2", True, 2.5, [2]):
        forge(copy, format=old)
        refused(copy, "this version reads 3", "Save the variant again")


HOSTILE_NAMES = ["../x", "/etc/passwd", "a/b", "..", ".", "", "model.onnx\0", "C:\\x", "x" * 5000, "notes.txt"]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda n: repr(n[:12]))
def test_a_forged_manifest_names_no_other_files(copy, name):
    forge(copy, files={**open_artifact(copy).manifest["files"], name: {"sha256": "0" * 64, "bytes": 0}})
    words = refused(copy, "Do not use this artifact")
    assert len(words) < 500


@pytest.mark.parametrize("size", [-1, 1e9, 10**4000, True, None, "12", [1]], ids=lambda s: str(s)[:8])
def test_forged_sizes_and_sums_are_refused(copy, size):
    files = open_artifact(copy).manifest["files"]
    forge(copy, files={**files, "model.onnx": {**files["model.onnx"], "bytes": size}})
    assert len(refused(copy, "model.onnx")) < 500
    for odd in (None, 7, "0" * 63, "G" * 64, ["0" * 64]):
        forge(copy, files={**files, "model.onnx": {**files["model.onnx"], "sha256": odd}})
        refused(copy, "model.onnx", "sha256")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", []),
        ("files", {}),
        ("recipe", "x"),
        ("steps", {}),
        ("quantized", 0),
        ("params", "many"),
        ("params", True),
        ("validation_quality", None),
        ("export", None),
        ("replayable", "yes"),
        ("task", None),
        ("versions", []),
    ],
)
def test_forged_values_of_a_wrong_kind_are_refused(copy, key, value):
    forge(copy, **{key: value})
    refused(copy, "manifest.json")


def test_what_is_no_manifest_is_refused_whatever_it_is(copy):
    for text in ("", "{", "[]", "3", '{"a": ' * 100_000, "9" * 10_000, "\ud800".encode("utf-8", "surrogatepass")):
        (copy / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
        assert len(refused(copy, "manifest")) < 700
    with (copy / MANIFEST).open("wb") as stream:
        stream.truncate(2**40)  # a sparse terabyte: read, it would fill the memory
    refused(copy, "too large for a manifest")


@pytest.mark.parametrize(
    "io",
    [
        b"{}",
        b"[" * 100_000,
        b'{"kind": "tensor", "inputs": [], "outputs": [], "output_tree": {"leaf": 0}, "batch": null}',
    ],
    ids=["empty", "deep", "nothing"],
)
def test_a_forged_description_of_inputs_and_outputs_is_refused(copy, io):
    forge_file(copy, "io.json", io)
    refused(copy, "io.json", "does not describe")


def test_a_forged_output_structure_is_refused(copy, content):
    io = json.loads(content["io.json"])
    for tree in ({"leaf": 7}, {"run": 1}, {"leaf": "x"}, {}, 3, {"leaf": 0, "none": 1}):
        forge_file(copy, "io.json", json.dumps({**io, "output_tree": tree}).encode())
        refused(copy, "io.json", "does not describe")
    bad = [{**io["inputs"][0], "dtype": "object"}]
    forge_file(copy, "io.json", json.dumps({**io, "inputs": bad}).encode())
    refused(copy, "io.json", "does not describe")


def test_a_forged_reference_cannot_unfold_or_carry_objects(copy):
    def predict():
        with pytest.raises(ArtifactError, match="does not hold reference") as caught:
            wb.load_variant(copy).predict(np.zeros((1, 1, 6, 6), np.float32))
        return str(caught.value)

    path = copy.parent / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("input_0.npy", b"\0" * 10_000_000)
    forge_file(copy, "reference.npz", path.read_bytes())
    assert "expand" in predict()
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,), }".ljust(
        117
    )
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("input_0.npy", header + b"\n" + b"\0" * 64)
    forge_file(copy, "reference.npz", path.read_bytes())
    predict()
    np.savez(path, input_0=np.array([print], dtype=object), output_0=np.zeros(1))
    forge_file(copy, "reference.npz", path.read_bytes())
    predict()


KILLED = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    import workbench.artifact.save as save
    from artifact_models import make_variant, pruned
    from workbench.core.errors import ExportError

    def die(*_args, **_more):
        os.kill(os.getpid(), signal.SIGKILL)

    def skip(*_args, **_more):
        raise ExportError("left out, to be quick")

    save.export_onnx = skip
    for target in sys.argv[2:]:
        for moment in ("make_reference", "write_manifest"):
            child = os.fork()
            if not child:
                setattr(save, moment, die)
                make_variant(pruned()).save(target)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")
def test_a_killed_save_never_looks_finished(copy, tmp_path):
    folder = tmp_path / "fresh"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(SUPPORT), str(folder), str(copy)]
    subprocess.run(command, check=True)
    refused(folder, "does not exist")
    open_artifact(copy)  # the one that was there is untouched
    left = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(left) == 4 and not any((path / MANIFEST).exists() for path in left)
    for path in left:
        refused(path, "written last")


FULL = """
    import json, resource, sys
    sys.path.insert(0, sys.argv[1])
    import workbench.artifact.save as save
    from artifact_models import make_variant, pruned
    from workbench.core.errors import ArtifactError, ExportError

    def skip(*_args, **_more):
        raise ExportError("left out, so that the other files are the ones that do not fit")

    variant, export, said = make_variant(pruned()), save.export_onnx, []
    for limit, use in ((100, skip), (10_000, skip), (20_000, export)):
        save.export_onnx = use
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            variant.save(sys.argv[2])
            said.append("saved")
        except ArtifactError as error:
            said.append(str(error))
    print(json.dumps(said))
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_artifact_that_was_there(copy, content, tmp_path):
    """In turn the first file, the weights and the ONNX file do not fit."""
    pytest.importorskip("resource", reason="file size limits need POSIX")
    assert len(content["weights.safetensors"]) < 20_000 < len(content["model.onnx"])
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(SUPPORT), str(copy)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said) == 3
    for words in said:
        assert words.startswith(f"Cannot write {copy}") and "unchanged" in words, words
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == content
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_writers_at_once_leave_one_whole_artifact_and_nothing_else(tmp_path):
    folder, errors = tmp_path / "shared", []

    def write(number):
        try:
            for turn in range(30):
                with replacing_folder(folder) as temporary:
                    for name in FILES:
                        (temporary / name).write_text(f"{number} {turn}")
                    (temporary / MANIFEST).write_text(f"{number} {turn}")
        except BaseException as error:  # noqa: BLE001 - a thread's error must reach the test
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert len({path.read_text() for path in folder.iterdir()}) == 1
    assert len(list(folder.iterdir())) == len(FILES) + 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["shared"]


@pytest.mark.slow
def test_when_the_last_moment_fails_the_old_artifact_comes_back(copy, content, monkeypatch):
    replace = os.replace

    def fail(source, target):
        if Path(target) == copy and not str(source).endswith(".old"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ArtifactError, match=r"No space left.*unchanged"):
        make_variant(pruned()).save(copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == content
