"""The last feature map: where it is found, when it is learned, and what the objective is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_models import images, seeded, small_task, task_of
from torch import nn
from torch.nn import functional as F

from workbench.compress import Distill, Factorize, Prune, PruneDepth, Recipe
from workbench.compress.distill.apply import distill
from workbench.compress.graph.outputs import trace_maps
from workbench.compress.handlers import Work
from workbench.compress.training.distillation_objective import CACHE_BYTES, DistillationObjective, Teacher
from workbench.compress.training.features import FeatureMatching, Pair, match_last_maps
from workbench.compress.training.losses import feature_error
from workbench.core.errors import ConfigError
from workbench.core.progress import ignore_progress
from workbench.tasks import digits, digits_vit


class Residual(nn.Module):
    """Blocks whose shapes stay, functional pooling, and a Linear head: a CIFAR ResNet in small."""

    def __init__(self, width: int = 8, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(blocks))
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.blocks(F.relu(self.stem(x))), 1).flatten(1))


class Pooled(nn.Module):
    """The pooling is a module, whose output is a map of one position."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 8, 3, padding=1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.pool(F.relu(self.body(x))).flatten(1))


class Segmenter(nn.Module):
    """A convolution as head, whose output is enlarged."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return F.interpolate(self.head(F.relu(self.body(x))), scale_factor=2.0)


class Tagger(nn.Module):
    """Logits for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, tokens):
        return {"logits": self.head(self.norm(self.table(tokens)))}


class Encoder(nn.Module):
    """Ends in a LayerNorm and a mean: no head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear, self.norm = nn.Embedding(9, 6), nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, tokens):
        return self.norm(self.linear(self.table(tokens))).mean(1)


class Recurrent(nn.Module):
    """An LSTM whose last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    return transformers.BertForSequenceClassification(config)


def hf_vit():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_channels=1,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def hf_resnet():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"
    )
    return transformers.ResNetForImageClassification(config)


IMAGE, TOKENS = torch.randn(2, 1, 8, 8), torch.randint(0, 9, (2, 5))
WHERE = [
    (Residual, IMAGE, "blocks", (2, 8, 8, 8)),
    (Pooled, IMAGE, "pool:input", (2, 8, 8, 8)),
    (Segmenter, IMAGE, "head:input", (2, 8, 4, 4)),
    (Tagger, TOKENS, "head:input", (2, 5, 6)),
    (Encoder, TOKENS, "norm", (2, 5, 6)),
    (Recurrent, torch.randn(2, 4, 5), "lstm", (2, 4, 7)),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3)), IMAGE, "3:input", (2, 6)),
    (lambda: digits().model(), torch.randn(2, 1, 32, 32), "pool:input", (2, 96, 4, 4)),
    (lambda: digits_vit().model(), torch.randn(2, 1, 32, 32), "norm", (2, 64, 96)),
    (bert, {"input_ids": TOKENS}, "bert", (2, 5, 16)),
    (hf_vit, IMAGE, "vit", (2, 5, 16)),
    (hf_resnet, torch.randn(2, 1, 32, 32), "resnet", (2, 8, 4, 4)),
]


@pytest.mark.parametrize(("build", "example", "tap", "shape"), WHERE, ids=[tap for _, _, tap, _ in WHERE])
def test_the_last_feature_map_is_what_head_or_pooling_reads(build, example, tap, shape):
    module = build().eval()
    found = trace_maps(module, example).last
    assert (found.tap, found.shape) == (tap, shape)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_module_of_one_layer_has_no_feature_map():
    assert trace_maps(nn.Sequential(nn.Linear(3, 2)), torch.randn(2, 3)).last is None
    assert trace_maps(nn.Linear(3, 2), torch.randn(2, 3)).last is None
    assert match_last_maps(nn.Linear(3, 2), nn.Linear(3, 2), torch.randn(2, 3), same_names=True)[0] is None


def residual_task(**options):
    x, y = images(96)
    return task_of(seeded(Residual), x, y, **options)


def without_a_block(task):
    module = task.model()
    module.blocks[1] = nn.Identity()
    return module


def test_the_error_is_mse_over_variance_in_numpy():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(3, 5, 4, 4)), rng.normal(2.0, 3.0, size=(3, 5, 4, 4))
    by_hand = ((student - teacher) ** 2).mean() / teacher.var()
    assert float(feature_error(torch.from_numpy(student), torch.from_numpy(teacher))) == pytest.approx(by_hand)
    mean = torch.full((2, 3), 4.0)
    assert float(feature_error(mean + 1, mean)) == pytest.approx(1 / (1e-4 * 16), rel=1e-4)
    assert float(feature_error(torch.ones(2, 3), torch.zeros(2, 3))) == 1.0


@pytest.mark.parametrize("features", [("auto",), ("last",)])
def test_the_objective_is_outputs_and_last_map_by_hand(features):
    task = residual_task()
    student, teacher, x, y = without_a_block(task), task.model(), task.train.inputs[:8], task.train.targets[:8]
    pair, _ = match_last_maps(student, teacher, task.examples(2), same_names=True)
    assert pair == Pair("blocks", "blocks", "map")
    with FeatureMatching(student, teacher, task.examples(2), [pair], weights={"map": 0.7}, seed=0) as matching:
        step = Distill(temperature=3.0, alpha=0.6, blend=False, precision="float32")
        lesson = DistillationObjective(task, step, teacher=teacher, matching=matching)
        got = lesson.loss(student(x), x, y, torch.arange(8))
    maps = [module.blocks(F.relu(module.stem(x))).detach().numpy() for module in (student, teacher)]
    logits = [module(x).detach().double() for module in (student, teacher)]
    p, q = (F.log_softmax(z / 3.0, dim=1) for z in (logits[1], logits[0]))
    soft = 9.0 * float((p.exp() * (p - q)).sum(1).mean())
    hard = float(F.cross_entropy(logits[0], y))
    error = float(((maps[0] - maps[1]) ** 2).mean() / maps[1].var())
    assert float(got.detach()) == pytest.approx(0.6 * soft + 0.4 * hard + 0.7 * error, rel=1e-4)


def distilled(task, student, epochs=2, **options):
    step = Distill(epochs=epochs, batch_size=16, precision="float32", **options)
    torch.manual_seed(0)  # dropout
    return distill(step, Work(task, student, ignore_progress, 0))


def error_of(task, module):
    taps, x = [], task.train.inputs
    for net in (module, task.model()):
        with torch.no_grad():
            taps.append(net.blocks(F.relu(net.stem(x))))
    return float(feature_error(*taps))


def test_a_student_without_a_block_learns_the_map_by_default():
    task = residual_task()
    outcome = distilled(task, without_a_block(task))
    assert outcome.notes[0] == "Learned the outputs and a feature map: blocks [8, 8, 8] is the last feature map."
    alone = distilled(task, without_a_block(task), features=())
    assert error_of(task, outcome.module) < error_of(task, alone.module)
    assert not any("feature map" in note for note in alone.notes)
    idle = distilled(task, without_a_block(task), feature_weight=0.0)
    assert all(torch.equal(a, b) for a, b in zip(idle.module.parameters(), alone.module.parameters(), strict=True))


def test_a_narrower_student_learns_the_outputs_alone_and_a_note_names_the_shapes():
    task = small_task()
    report = Recipe(Prune(0.5, round_to=1), Distill(epochs=1, batch_size=16)).apply(task).reports[-1]
    (note,) = [note for note in report.notes if "outputs alone" in note]
    assert "[8, 4, 4]" in note and "[16, 4, 4]" in note
    plain = Recipe(Prune(0.5, round_to=1), Distill(epochs=1, batch_size=16, features=())).apply(task)
    auto = Recipe(Prune(0.5, round_to=1), Distill(epochs=1, batch_size=16)).apply(task)
    x = task.validation.inputs
    assert torch.equal(plain.predict(x), auto.predict(x))


def test_last_learns_a_projection_for_a_narrower_student():
    task = small_task()
    step = Distill(epochs=1, batch_size=16, features=("last",))
    variant = Recipe(Prune(0.5, round_to=1), step).apply(task)
    assert any("feature map" in note for note in variant.reports[-1].notes)
    assert {type(part) for part in variant.module.modules()} == {type(part) for part in task.model().modules()}


def test_a_factorized_head_still_learns_the_map():
    task = task_of(seeded(Segmenter), *images(), loss=lambda out, y: out.square().mean(), metric=lambda out, y: 0.0)
    student = task.model()
    student.head = nn.Sequential(nn.Conv2d(8, 1, 1), nn.Conv2d(1, 3, 1))
    pair, _ = match_last_maps(student, task.model(), task.examples(2), same_names=True)
    assert pair == Pair("head:input", "head:input", "map")
    assert match_last_maps(student, task.model(), task.examples(2), same_names=False)[0].kind == "features"
    linear = residual_task()
    notes = Recipe(Factorize(ratio=0.5), Distill(epochs=1)).apply(linear).reports[-1].notes
    assert any("blocks [8, 8, 8]" in note for note in notes)


def test_last_without_a_feature_map_is_refused_before_any_step():
    task = task_of(seeded(lambda: nn.Linear(3, 4)), torch.randn(64, 3), images()[1])
    assert Recipe(Distill(epochs=1)).apply(task).reports[0].notes
    with pytest.raises(ConfigError, match="no feature map was found in the teacher"):
        Recipe(Distill(features=("last",))).apply(task)
    with pytest.raises(ConfigError, match="both 'auto' and 'last'"):
        Distill(features=("auto", "last"))


def test_the_input_of_a_layer_may_be_named():
    task = residual_task()
    assert distilled(task, without_a_block(task), features=("head:input",)).epochs_done == 2
    with pytest.raises(ConfigError, match="the teacher has no layer 'heads'"):
        Recipe(Distill(features=("heads:input",))).apply(task)


@pytest.mark.parametrize("build", [Residual, bert], ids=["cnn", "bert"])
def test_cached_answers_train_as_fresh_ones(build, monkeypatch):
    if build is bert:
        tokens = {"input_ids": torch.randint(0, 29, (96, 5))}
        task = task_of(
            seeded(bert),
            tokens,
            images(96)[1] % 2,
            metric=lambda out, y: float((out["logits"].argmax(1) == y).float().mean()),
            loss=lambda out, y: F.cross_entropy(out["logits"], y),
        )
    else:
        task = residual_task()
    calls = []
    run = Teacher.__call__

    def counted(self, inputs, indices):
        before = self._cached.sum()
        answer = run(self, inputs, indices)
        calls.append(bool(self._cached.sum() == before and indices is not None and self._cached[indices].all()))
        return answer

    monkeypatch.setattr(Teacher, "__call__", counted)
    with_cache = distilled(task, task.model(), blend=False, epochs=3).module
    assert any(calls)
    calls.clear()
    monkeypatch.setattr("workbench.compress.training.distillation_objective.CACHE_BYTES", 0)
    without = distilled(task, task.model(), blend=False, epochs=3).module
    assert not any(calls) and CACHE_BYTES > 0
    for a, b in zip(with_cache.parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def teacher_calls(task):
    teacher, calls = task.model(), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    lesson = DistillationObjective(task, Distill(temperature=4.0, alpha=0.9, blend=False), teacher=teacher)
    generator, index = torch.Generator().manual_seed(0), torch.arange(8)
    for _ in range(3):
        inputs = lesson.augment(task.train.inputs[index], generator)
        lesson.loss(torch.zeros(8, 4), inputs, task.train.targets[index], index)
    return len(calls)


@pytest.mark.parametrize(
    ("augment", "calls"),
    [
        (None, 1),
        (lambda x, generator: x + 1, 1),
        (lambda x, generator: x + torch.rand((), generator=generator), 3),
        (lambda x, generator: x + 0 * torch.rand((), generator=generator), 3),
        (lambda x, generator: x + torch.rand(()), 3),
        (lambda x, generator: x + np.random.rand(), 3),
    ],
    ids=["none", "fixed", "random", "drawn", "global", "numpy"],
)
def test_answers_are_cached_if_the_augmentation_draws_nothing(augment, calls):
    assert teacher_calls(residual_task(augment=augment)) == calls


def test_depth_pruning_keeps_the_map():
    def build():
        module = seeded(Residual)()
        module.blocks = nn.Sequential(*(Added(block) for block in module.blocks))
        return module

    task = task_of(build, *images(96))
    report = Recipe(PruneDepth(blocks=1), Distill(epochs=1, batch_size=16)).apply(task).reports[-1]
    assert any("Learned the outputs and a feature map: blocks [8, 8, 8]" in note for note in report.notes)


class Added(nn.Module):
    """A residual block around a body."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


def test_a_map_of_one_shape_counts_more_than_one_behind_a_projection():
    assert Distill().feature_weights == {"map": 20.0, "features": 1.0, "attention": 10.0}
    chosen = Distill(feature_weight=3.0, attention=("a",), attention_weight=2.0).feature_weights
    assert chosen == {"map": 3.0, "features": 3.0, "attention": 2.0}
