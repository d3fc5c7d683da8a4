from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from artifact_models import build, factorized, forge, make_task, make_variant, pruned
from paths import SUPPORT
from torch import nn

from workbench.artifact import load_module, open_artifact, save_variant
from workbench.artifact.reference import Reference, sample_count
from workbench.core.errors import ArtifactError

IMAGES = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a pruned variant and its artifact."""
    variant = make_variant(pruned())
    return variant, save_variant(variant, tmp_path_factory.mktemp("artifacts") / "pruned")


@pytest.fixture
def copy(saved, tmp_path):
    """Return the folder of a copy that a test may damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in saved[1].folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_the_folder_holds_what_another_process_needs(saved):
    variant, artifact = saved
    assert sorted(artifact.manifest["files"]) == [
        "io.json",
        "model.onnx",
        "reference.npz",
        "structure.json",
        "weights.safetensors",
    ]
    assert artifact.manifest["params"] == variant.params
    assert artifact.manifest["task"]["fingerprint"] == variant.task.fingerprint
    assert artifact.size_mib == artifact.onnx_path.stat().st_size / 2**20
    assert artifact.io.dynamic_batch and not artifact.quantized and artifact.export_error is None


def test_the_reference_is_what_torch_gives(saved):
    variant, artifact = saved
    reference = artifact.reference
    with torch.no_grad():
        want = variant.module(torch.from_numpy(reference.inputs[0]))
    np.testing.assert_allclose(reference.outputs[0], want, atol=1e-6)
    assert reference.batch_size == 8


@pytest.mark.slow
def test_a_fresh_process_makes_the_same_module_and_can_train_it(saved, tmp_path):
    variant, artifact = saved
    factor = save_variant(make_variant(factorized()), tmp_path / "factorized")
    torch.save(IMAGES, tmp_path / "images.pt")
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1])\n"
        "from artifact_models import build\n"
        "from workbench.artifact import load_module, open_artifact\n"
        "x = torch.load(sys.argv[2] + '/images.pt')\n"
        "for i, folder in enumerate(sys.argv[3:]):\n"
        "    m = load_module(open_artifact(folder), build)\n"
        "    torch.save(m(x).detach(), sys.argv[2] + f'/{i}.pt')\n"
        "    m.train()(x).sum().backward()\n"
        "    assert all(p.grad is not None for p in m.parameters())\n"
    )
    here = str(SUPPORT)
    folders = [str(artifact.folder), str(factor.folder)]
    subprocess.run([sys.executable, "-c", code, here, str(tmp_path), *folders], check=True)
    for i, module in enumerate((variant.module, factorized_like(factor))):
        with torch.no_grad():
            torch.testing.assert_close(torch.load(tmp_path / f"{i}.pt"), module(IMAGES))


def factorized_like(artifact):
    return load_module(artifact, build)


def test_a_module_needs_the_function_that_builds_its_task(saved):
    with pytest.raises(ArtifactError, match=r"build=task\.build"):
        load_module(saved[1])
    with pytest.raises(ArtifactError, match="does not fit the module that build"):
        load_module(saved[1], lambda: nn.Linear(3, 3))


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "structure.json", "io.json", "reference.npz"])
def test_a_changed_file_is_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        open_artifact(copy)


def test_a_missing_file_is_named(copy):
    (copy / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"lacks its file weights\.safetensors"):
        open_artifact(copy)


def test_what_is_no_artifact_is_refused(copy, tmp_path):
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        open_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="does not exist"):
        open_artifact(tmp_path / "nowhere")
    forge(copy, format=99)
    with pytest.raises(ArtifactError, match=r"artifact format 99.*newer workbench"):
        open_artifact(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read as a manifest"):
        open_artifact(copy)


def test_a_manifest_cannot_point_outside_its_folder(copy):
    forge(copy, files={**open_artifact(copy).manifest["files"], "../other": {"sha256": "0", "bytes": 0}})
    with pytest.raises(ArtifactError, match="outside its folder"):
        open_artifact(copy)


def test_a_module_that_cannot_be_exported_still_gives_an_artifact(tmp_path):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x * self.scale if x.sum() > 0 else -x * self.scale

    task = make_task(Branches, shape=(3,))
    artifact = save_variant(make_variant(Branches().eval(), task), tmp_path / "branches")
    assert artifact.onnx_path is None
    assert "branches on the value of a tensor" in artifact.export_error
    assert artifact.size_mib > 0
    assert torch.equal(load_module(artifact, Branches)(-torch.ones(2, 3)), torch.ones(2, 3))


class Other(nn.Module):
    """Differ in class from what build() makes; ``private`` calls an operator that artifacts may not name."""

    def __init__(self, *, private):
        super().__init__()
        self.linear, self.private = nn.Linear(36, 4), private

    def forward(self, image):
        flat = image.flatten(1)
        if self.private:
            flat = torch.ops.aten._unsafe_index.Tensor(flat, [None, torch.arange(36)])
        return self.linear(flat)


def test_a_structure_that_cannot_be_written_down_is_kept_as_a_graph(tmp_path):
    module = Other(private=False).eval()
    artifact = save_variant(make_variant(module), tmp_path / "other")
    assert "the module itself is a Other" in artifact.manifest["replay_reason"]
    assert {"graph.json", "weights.safetensors"} <= artifact.manifest["files"].keys()
    assert "exported.pt2" not in artifact.manifest["files"]
    with torch.no_grad():
        for size in (1, 3):
            torch.testing.assert_close(load_module(artifact)(IMAGES[:size]), module(IMAGES[:size]))


def test_a_graph_with_a_part_that_is_no_operator_is_kept_as_a_program(tmp_path):
    module = Other(private=True).eval()
    artifact = save_variant(make_variant(module), tmp_path / "other")
    assert "exported.pt2" in artifact.manifest["files"]
    with pytest.raises(ArtifactError, match="trust=True"):
        load_module(artifact, build)
    with torch.no_grad():
        for size in (1, 3):
            torch.testing.assert_close(load_module(artifact, trust=True)(IMAGES[:size]), module(IMAGES[:size]))


@pytest.mark.slow
def test_saving_again_replaces_and_nothing_else_is_touched(saved, copy, tmp_path):
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        save_variant(saved[0], other)
    assert (other / "thesis.txt").read_text() == "years of work"
    again = save_variant(saved[0], copy)
    assert again.manifest["files"]["weights.safetensors"] == saved[1].manifest["files"]["weights.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["copy", "mine"]


def test_a_failed_save_leaves_the_old_artifact(saved, copy, monkeypatch):
    def fail(*_args, **_more):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr("workbench.artifact.save._manifest", fail)
    with pytest.raises(RuntimeError, match="on fire"):
        save_variant(saved[0], copy)
    assert open_artifact(copy).manifest["created"] == saved[1].manifest["created"]
    assert [p.name for p in copy.parent.iterdir() if p.name.startswith(".")] == []


def test_a_folder_that_cannot_be_written_is_said(saved, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ArtifactError, match="Cannot write"):
        save_variant(saved[0], blocker / "below")


def test_references_are_small_and_plain(tmp_path):
    assert sample_count(4) == 8
    assert sample_count(3 * 2**20) == 1
    reference = Reference([np.arange(6.0).reshape(3, 2)], [np.zeros((3, 1))])
    assert reference.tiled_inputs(5)[0][:, 0].tolist() == [0, 2, 4, 0, 2]
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    with pytest.raises(ArtifactError, match="does not hold reference"):
        Reference.read(tmp_path / "bad.npz")
    np.savez(tmp_path / "objects.npz", input_0=np.array([{}], dtype=object), output_0=np.zeros(1))
    with pytest.raises(ArtifactError, match="does not hold reference"):
        Reference.read(tmp_path / "objects.npz")
