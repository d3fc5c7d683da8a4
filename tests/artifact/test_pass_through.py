"""Removed blocks on disk: the stand-ins come back as they were, and nothing else does."""

from __future__ import annotations

import json

import pytest
import torch
from artifact_models import forge_file
from compress_models import images, seeded, task_of
from depth_models import DictTower, Encoder, KeywordTower, ReadTower, Residual, TiedTower

import workbench as wb
from workbench.compress.depth.pass_through import PassThrough
from workbench.core.errors import ArtifactError


def saved(factory, folder, blocks=1, **options):
    task = task_of(seeded(factory), *images())
    variant = wb.Recipe(wb.PruneDepth(blocks=blocks, **options)).apply(task)
    variant.save(folder)
    return task, variant


@pytest.mark.slow
@pytest.mark.parametrize("factory", [Residual, KeywordTower, DictTower, ReadTower, Encoder, TiedTower])
def test_a_saved_variant_gives_equal_outputs(factory, tmp_path):
    task, variant = saved(factory, tmp_path / "artifact", blocks=2)
    loaded = wb.load_variant(tmp_path / "artifact", task)
    x = task.evaluation.take(range(6)).inputs
    assert torch.equal(loaded.predict(x), variant.predict(x))
    assert [type(m) for m in loaded.module.modules()] == [type(m) for m in variant.module.modules()]
    assert loaded.reports == variant.reports
    without_task = wb.load_variant(tmp_path / "artifact")
    torch.testing.assert_close(torch.as_tensor(without_task.predict(x)), variant.predict(x), atol=1e-5, rtol=1e-4)


def test_the_owner_of_a_tied_weight_may_leave(tmp_path):
    task, variant = saved(TiedTower, tmp_path / "artifact", include=("blocks.0",))
    loaded = wb.load_variant(tmp_path / "artifact", task)
    assert torch.equal(loaded.module.blocks[1].conv1.weight, variant.module.blocks[1].conv1.weight)
    assert loaded.params == variant.params == sum(p.numel() for p in loaded.module.parameters())


def test_a_second_step_goes_on_from_a_saved_one(tmp_path):
    task, variant = saved(KeywordTower, tmp_path / "artifact")
    assert sum(isinstance(m, PassThrough) for m in variant.module.modules()) == 1
    again = wb.load_variant(tmp_path / "artifact", task).module
    assert sum(isinstance(m, PassThrough) for m in again.modules()) == 1


@pytest.mark.cpu_limit(5)
@pytest.mark.parametrize(
    "edit",
    [
        {"type": "PassThrough", "args": {"outputs": {"tuple": ["call", "os.system"]}}},
        {"type": "PassThrough", "args": {"outputs": "input"}},
        {"type": "PassThrough", "args": {"inputs": {"tuple": ["input", 0]}}},
        {"type": "PassThroughs", "args": {}},
    ],
)
def test_a_damaged_stand_in_is_refused(edit, tmp_path):
    folder = tmp_path / "artifact"
    task, _ = saved(KeywordTower, folder)
    structure = json.loads((folder / "structure.json").read_text())
    edits = structure.get("edits", structure)
    assert len(edits["modules"]) == 1
    edits["modules"] = dict.fromkeys(edits["modules"], edit)
    forge_file(folder, "structure.json", json.dumps(structure).encode())
    with pytest.raises(ArtifactError, match="does not fit the module"):
        wb.load_variant(folder, task)
