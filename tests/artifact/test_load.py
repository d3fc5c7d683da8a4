"""variant.save(folder) and load_variant(folder, task): the same variant again, in this process and in a fresh one."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from artifact_models import forge, forge_file
from paths import SUPPORT

import workbench as wb
from workbench.artifact import load_module, open_artifact
from workbench.core.errors import ArtifactError, TaskError

RECIPES = {
    "float": wb.Recipe(),
    "prune": wb.Recipe(wb.Prune(ratio=0.5)),
    "factorize": wb.Recipe(wb.Factorize(), name="mine"),
    "chain": wb.Recipe(wb.Prune(ratio=0.25), wb.Distill(epochs=0.5), wb.Factorize(allow_untouched=True), seed=3),
    "int8": wb.Recipe(wb.Quantize()),
}


@pytest.fixture(scope="module")
def task():
    return wb.load_task(f"{SUPPORT / 'tiny.py'}:tiny")


@pytest.fixture(scope="module")
def saved(task, tmp_path_factory):
    """Return a variant and the folder it was saved in, by name."""
    root, made = tmp_path_factory.mktemp("saved"), {}

    def get(name):
        if name not in made:
            variant = RECIPES[name].apply(task)
            made[name] = variant, variant.save(root / name).folder
        return made[name]

    return get


@pytest.fixture
def copy(saved, tmp_path):
    """Return the folder of a copy that a test may damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in saved("prune")[1].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def exactly_like(variant, other):
    assert (other.recipe, other.recipe.name) == (variant.recipe, variant.recipe.name)
    assert other.reports == variant.reports
    assert (other.params, other.macs, other.quality) == (variant.params, variant.macs, variant.quality)
    assert other.quantized == variant.quantized


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float", "prune", "factorize", "chain"])
def test_with_its_task_the_variant_comes_back_whole(saved, task, name):
    variant, folder = saved(name)
    again = wb.load_variant(folder, task)
    exactly_like(variant, again)
    images = task.examples(5)
    assert torch.equal(again.predict(images), variant.predict(images))
    assert {n: p.shape for n, p in again.module.named_parameters()} == {
        n: p.shape for n, p in variant.module.named_parameters()
    }
    assert task.evaluate(again.predict) == task.evaluate(variant.predict)
    assert not again.module.training


FRESH = """
    import sys
    import numpy as np
    import torch
    import workbench as wb
    from workbench.tasks.load import load_task

    task, unpickled = load_task(sys.argv[1]), []
    sys.addaudithook(lambda event, args: unpickled.append(args) if event == "pickle.find_class" else None)
    variant = wb.load_variant(sys.argv[2], task)
    assert unpickled == [], unpickled
    images, labels = next(task.train.batches(64))
    torch.testing.assert_close(variant.predict(images), torch.from_numpy(np.load(sys.argv[3])), rtol=0, atol=0)
    before = {name: value.clone() for name, value in variant.module.named_parameters()}
    optimizer = torch.optim.SGD(variant.module.train().parameters(), lr=0.05)
    loss = task.loss(variant.module(images), labels)
    loss.backward()
    optimizer.step()
    assert all(not torch.equal(before[n], p) for n, p in variant.module.named_parameters()), "not all weights moved"
    assert task.loss(variant.module(images), labels) < loss
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prune", "chain"])
def test_a_fresh_process_gets_equal_outputs_and_can_train_without_any_pickle(saved, task, tiny_spec, tmp_path, name):
    variant, folder = saved(name)
    images, _ = next(task.train.batches(64))
    np.save(tmp_path / "wanted.npy", variant.predict(images).numpy())
    command = [sys.executable, "-c", textwrap.dedent(FRESH), tiny_spec, str(folder), str(tmp_path / "wanted.npy")]
    subprocess.run(command, check=True)


@pytest.mark.slow
def test_a_variant_that_came_back_can_be_compressed_further_and_saved_again(saved, task, tmp_path):
    again = wb.load_variant(saved("prune")[1], task)
    once_more = wb.load_variant(again.save(tmp_path / "again").folder, task)
    assert torch.equal(once_more.predict(task.examples(3)), again.predict(task.examples(3)))
    with wb.OptimizedInferenceEngine.from_variant(again, backend="onnxruntime") as engine:
        found = engine.predict(task.examples(3)).result
    torch.testing.assert_close(found, again.predict(task.examples(3)), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_without_its_task_it_predicts_from_onnx_and_needs_no_torch(saved, task, tmp_path):
    variant, folder = saved("prune")
    images = task.examples(7).numpy()
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", variant.predict(task.examples(7)).numpy())
    code = """
        import sys
        import numpy as np
        import workbench as wb

        with wb.load_variant(sys.argv[1]) as model:
            found = model.predict(np.load(sys.argv[2] + "/x.npy"))
            np.testing.assert_allclose(found, np.load(sys.argv[2] + "/y.npy"), rtol=1e-3, atol=1e-4)
            assert model.predict(np.load(sys.argv[2] + "/x.npy")[:1]).shape[0] == 1
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(folder), str(tmp_path)], check=True)
    model = wb.load_variant(folder)
    assert (model.recipe, model.quality, model.params, model.macs) == (
        variant.recipe,
        variant.quality,
        variant.params,
        variant.macs,
    )
    assert [step["label"] for step in model.steps] == [report.label for report in variant.reports]
    assert "inference only" in repr(model) and not model.quantized
    assert isinstance(model.predict(task.examples(2)), torch.Tensor)
    model.close()


@pytest.mark.slow
def test_a_quantized_variant_comes_back_without_trust_or_predicts_without_its_task(saved, task):
    variant, folder = saved("int8")
    again = wb.load_variant(folder, task)
    exactly_like(variant, again)
    torch.testing.assert_close(again.predict(task.examples(4)), variant.predict(task.examples(4)))
    with wb.load_variant(folder) as model:
        assert model.quantized
        found = model.predict(task.examples(64))
    wanted = variant.predict(task.examples(64))
    assert (found.argmax(1) == wanted.argmax(1)).float().mean() > 0.95
    with pytest.raises(ArtifactError, match="give its task too"):
        wb.load_variant(folder, trust=True)


def test_another_task_is_refused_and_the_module_alone_is_still_to_be_had(saved, task):
    _, folder = saved("prune")
    other = wb.Task(
        name="other",
        build=task.build,
        train=(task.train.inputs[:300], task.train.targets[:300]),
        evaluation=(task.evaluation.inputs, task.evaluation.targets),
        metric=task.metric,
        loss=task.loss,
    )
    with pytest.raises(ArtifactError, match=r"made for the task 'tiny'.*'other'.*load_module"):
        wb.load_variant(folder, other)
    assert load_module(open_artifact(folder), other.build).stem.out_channels < 16
    with pytest.raises(TaskError, match="Unknown task"):
        wb.load_variant(folder, "no such task")


def test_a_build_that_now_computes_something_else_is_found_out(saved, task, monkeypatch):
    _, folder = saved("prune")
    kind = type(task.build())
    forward = kind.forward
    assert task.fingerprint
    monkeypatch.setattr(kind, "forward", lambda self, image: forward(self, 2 * image))
    with pytest.raises(ArtifactError, match=r"outputs of .* differ.*build"):
        wb.load_variant(folder, task)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"recipe": {"steps": [{"step": "Sharpen"}]}}, "recipe of .* cannot be used.*written by"),
        ({"recipe": {"steps": 3}}, "no usable recipe.steps"),
        ({"steps": [{"step": {"step": "Prune"}}]}, "reports of .* cannot be used"),
        ({"steps": [7]}, "no usable steps.0"),
        ({"task": {}}, "made for the task None"),
    ],
)
def test_a_manifest_that_this_version_cannot_use_is_refused(copy, task, values, words):
    forge(copy, **values)
    with pytest.raises(ArtifactError, match=words):
        wb.load_variant(copy, task)


def test_weights_and_structure_that_do_not_fit_are_refused(copy, task):
    structure = json.loads((copy / "structure.json").read_text())
    wide = {"type": "Linear", "args": {"in_features": 10**6, "out_features": 10**6, "bias": True}}
    forge_file(copy, "structure.json", json.dumps({**structure, "modules": {"head": wide}}).encode())
    with pytest.raises(ArtifactError, match=r"in the artifact and \[1000000.* in the module"):
        wb.load_variant(copy, task)  # four terabytes, had it been made
    forge_file(copy, "structure.json", b"[" * 100_000)
    with pytest.raises(ArtifactError, match="cannot be read"):
        wb.load_variant(copy, task)
    forge_file(copy, "structure.json", json.dumps(structure).encode())
    forge_file(copy, "weights.safetensors", b"\xff" * 200)
    with pytest.raises(ArtifactError, match="cannot be read"):
        wb.load_variant(copy, task)


def test_a_students_own_structure_comes_back_trainable_where_its_function_is_trusted(task, tmp_path):
    place = tmp_path / "small.py"
    place.write_text(
        "from torch import nn\n\n"
        "def small():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))\n"
    )
    recipe = wb.Recipe(wb.Distill(epochs=0.2, student=f"{place}:small"), wb.Factorize(allow_untouched=True))
    variant = recipe.apply(task, cache=wb.PrefixCache(task, folder=tmp_path / "cache"))
    folder = variant.save(tmp_path / "student").folder
    with pytest.raises(ArtifactError, match=r"made by the function '.*small\.py:small'.*trust=True"):
        wb.load_variant(folder, task)
    again = wb.load_variant(folder, task, trust=True)
    exactly_like(variant, again)
    again.module.train()
    again.module(task.examples(4)).sum().backward()
    assert all(weight.grad is not None for weight in again.module.parameters())
    cached = recipe.apply(task, cache=wb.PrefixCache(task, folder=tmp_path / "cache"))
    assert cached.reused_steps >= 1
    place.write_text("gone = 1\n")
    with pytest.raises(ArtifactError, match="cannot be rebuilt"):
        wb.load_variant(folder, task, trust=True)
