"""Graphs as data: they come back the same, and name nothing but operators that compute."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from artifact_models import forge_file, make_task
from hostile import values
from hostile_artifact import opened, places, put
from safetensors.torch import load_file
from torch import nn

import workbench as wb
from workbench.artifact import open_artifact
from workbench.artifact.graph import describe_graph, rebuild_graph
from workbench.artifact.load import load_module
from workbench.artifact.structure import StructureError
from workbench.core.errors import ArtifactError
from workbench.measure.profiling.work import module_names

MODES = {
    "static": wb.Quantize(),
    "dynamic": wb.Quantize(activations="dynamic"),
    "weights": wb.Quantize(activations="none"),
    "4-bit": wb.Quantize(activations="none", bits=4),
    "trained": wb.Quantize(qat_epochs=1),
}


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def int8(task, tmp_path_factory):
    return wb.Recipe(wb.Quantize()).apply(task).save(tmp_path_factory.mktemp("graph") / "int8")


@pytest.fixture
def int8_copy(int8, tmp_path):
    """Return the folder of a copy that a test may damage."""
    return shutil.copytree(int8.folder, tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_quantized_module_comes_back_the_same_without_trust(mode, task, tmp_path):
    variant = wb.Recipe(MODES[mode]).apply(task)
    artifact = variant.save(tmp_path / "a")
    assert "exported.pt2" not in artifact.manifest["files"]
    again = wb.load_variant(artifact.folder, task)
    for size in (1, 3, 8):
        torch.testing.assert_close(again.predict(task.examples(size)), variant.predict(task.examples(size)))
    assert module_names(again.module) == module_names(variant.module)
    assert wb.load_variant(again.save(tmp_path / "b").folder, task).quality == variant.quality


@pytest.mark.slow
def test_parts_named_by_numbers_need_no_trust_either(task, tmp_path):
    def build():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(task.examples(1)[0].numel(), 16), nn.ReLU(), nn.Linear(16, 10)
        ).eval()

    mine = wb.Task(
        name="row", build=build, train=(task.train.inputs, task.train.targets),
        evaluation=(task.evaluation.inputs, task.evaluation.targets), metric=task.metric, loss=task.loss,
    )  # fmt: skip
    variant = wb.Recipe(wb.Quantize()).apply(mine)
    artifact = variant.save(tmp_path / "a")
    assert "exported.pt2" not in artifact.manifest["files"]
    x = mine.examples(3)
    torch.testing.assert_close(wb.load_variant(artifact.folder, mine).predict(x), variant.predict(x))


def test_inputs_by_keyword_and_nested_outputs_keep_their_form(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(6, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, left, right):
            h = self.a(left).relu() + self.b(right).relu()
            return {"logits": self.head(h), "more": (h, [h.mean(1)])}

    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Net().eval()

    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    task = wb.Task(
        name="keywords",
        build=build,
        train=({"right": x, "left": -x}, torch.arange(300) % 4),
        evaluation=({"right": x[:40] + 0.1, "left": -x[:40]}, torch.arange(40) % 4),
        metric=lambda out, y: float((out["logits"].argmax(1) == y).float().mean()),
        loss=lambda out, y: nn.functional.cross_entropy(out["logits"], y),
    )
    variant = wb.Recipe(wb.Quantize()).apply(task)
    again = wb.load_variant(variant.save(tmp_path / "a").folder, task)
    given = {"left": x[:5], "right": x[5:10]}
    mine, theirs = again.predict(given), variant.predict(given)
    assert list(mine) == ["logits", "more"] and isinstance(mine["more"][1], list)
    torch.testing.assert_close(mine, theirs)


REFUSED = (
    "os.system",
    "builtins.eval",
    "aten.from_file.default",
    "aten.set_.source_Tensor",
    "aten.resize_.default",
    "aten._index_put_impl_.default",
    "aten.index_put.out",
    "aten.add.out",
    "aten.add.__class__",
    "aten.__class__.default",
    "aten.add",
    "quantized.conv2d.new",
    "torch.load",
    "prims.copy_to.default",
)


@pytest.mark.parametrize("target", REFUSED)
def test_what_does_more_than_compute_is_refused(target, int8):
    nodes = nodes_of(int8.folder)
    next(node for node in nodes if node["op"] == "call_function")["target"] = target
    with pytest.raises(ArtifactError, match="not an operator that an artifact may call"):
        rebuild_graph(nodes, load_file(int8.folder / "weights.safetensors"), int8.io)


@pytest.mark.parametrize("name", ["x)\nimport os\n(", 'a", __import__("os")', "a b", "", "a..b", "a-b", "é"])
def test_a_name_that_would_become_code_is_refused(name, int8):
    nodes = nodes_of(int8.folder)
    attribute = next(node for node in nodes if node["op"] == "get_attr")
    tensors = load_file(int8.folder / "weights.safetensors")
    tensors[name] = tensors[attribute["target"]]
    attribute["target"] = name
    with pytest.raises(ArtifactError, match="not a valid tensor name"):
        rebuild_graph(nodes, tensors, int8.io)


def nodes_of(folder):
    return json.loads((folder / "graph.json").read_text())


@pytest.mark.cpu_limit(5)
@pytest.mark.parametrize("offset", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_hostile_values_run_nothing(int8_copy, task, tmp_path, offset):
    mark = tmp_path / "ran"
    nodes = nodes_of(int8_copy)
    for number, path in enumerate(list(places(nodes))[offset::29]):
        for value in values(mark)[number % 7 :: 7]:
            forge_file(int8_copy, "graph.json", json.dumps(put(nodes, path, value)).encode())
            opened(int8_copy, task)
    assert not mark.exists()


def test_a_damaged_graph_is_refused_in_one_line(int8_copy):
    for content in (b"{", b"[]", b"{}", b"[1]", b'[{"op": "output", "name": "o", "args": []}]'):
        forge_file(int8_copy, "graph.json", content)
        with pytest.raises(ArtifactError, match=r"graph\.json") as found:
            load_module(open_artifact(int8_copy))
        assert "\n" not in str(found.value)


def test_a_part_that_is_no_operator_cannot_be_described():
    class Frozen(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                y = x * 2
            return y + x

    with torch.enable_grad():
        program = torch.export.export(Frozen(), (torch.ones(2, 3, requires_grad=True),))
    with pytest.raises(StructureError, match="its graph"):
        describe_graph(program.module(check_guards=False))
