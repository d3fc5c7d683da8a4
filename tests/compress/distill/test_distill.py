"""Distillation: the loss by hand, the teacher's memory, and training that ends on time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_models import TwoHeads, images, seeded, small_net, small_task, task_of, two_heads_task
from hypothesis import given, settings, strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import nn
from torch.nn import functional as F

from workbench.artifact import load_module, save_variant
from workbench.compress import Distill, Prune, Quantize, Recipe, Recover
from workbench.compress.distill.config import Head
from workbench.compress.training.distillation_objective import DistillationObjective, Teacher, blend
from workbench.compress.training.features import FeatureMatching, Pair
from workbench.compress.training.losses import attention_error, attention_map, feature_error, leaf_loss, mixed_loss
from workbench.core.errors import ConfigError, RecipeError, WorkbenchError
from workbench.core.progress import ignore_progress


def test_the_loss_of_logits_is_the_divergence_by_hand():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    temperature = 3.0
    p, q = log_softmax(teacher / temperature, axis=1), log_softmax(student / temperature, axis=1)
    by_hand = (np.exp(p) * (p - q)).sum(1).mean() * temperature**2
    got = leaf_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert float(got) == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize(("kind", "axis"), [("kl", 1), ("kl_last", 2)])
def test_the_divergence_of_maps_is_the_mean_over_positions(kind, axis):
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 4, 3))
    p, q = softmax(teacher / 2, axis=axis), softmax(student / 2, axis=axis)
    by_scipy = entropy(p, q, axis=axis).mean() * 2**2
    got = leaf_loss(torch.from_numpy(student), torch.from_numpy(teacher), 2.0, kind)
    assert float(got) == pytest.approx(by_scipy, rel=1e-9)


@pytest.mark.parametrize("shape", [(5, 1), (5,), (5, 2, 3)])
def test_other_outputs_are_compared_by_their_squares(shape):
    student, teacher = torch.randn(shape), torch.randn(shape)
    by_hand = float(((student - teacher) ** 2).mean())
    assert float(leaf_loss(student, teacher, 4.0)) == pytest.approx(by_hand, rel=1e-5)


def test_all_floating_leaves_and_the_labels_are_mixed():
    mine = {"logits": torch.randn(4, 3), "map": torch.randn(4, 2, 2), "count": torch.zeros(4, dtype=torch.int64)}
    theirs = {"logits": torch.randn(4, 3), "map": torch.randn(4, 2, 2), "count": torch.ones(4, dtype=torch.int64)}
    labels = torch.tensor([0, 1, 2, 0])
    soft = (leaf_loss(mine["logits"], theirs["logits"], 2.0) + F.mse_loss(mine["map"], theirs["map"])) / 2
    hard = F.cross_entropy(mine["logits"], labels)

    def label_loss(out, y):
        return F.cross_entropy(out["logits"], y)

    got = mixed_loss(mine, theirs, labels, label_loss, temperature=2.0, alpha=0.7)
    assert float(got) == pytest.approx(float(0.7 * soft + 0.3 * hard), rel=1e-5)
    with pytest.raises(WorkbenchError, match="floating-point output"):
        mixed_loss(labels, labels, labels, label_loss, temperature=2.0, alpha=0.7)


def test_heads_are_weighted_by_name():
    mine = {"logits": torch.randn(4, 3), "boxes": torch.randn(4, 4), "mask": torch.randn(4, 2, 2)}
    theirs = {"logits": torch.randn(4, 3), "boxes": torch.randn(4, 4), "mask": torch.randn(4, 2, 2)}
    heads = {"logits": Head(2.0), "boxes": Head(0.5, "mse"), "mask": Head(0.0)}
    by_hand = (
        2 * leaf_loss(mine["logits"], theirs["logits"], 3.0) + F.mse_loss(mine["boxes"], theirs["boxes"]) / 2
    ) / 2.5
    got = mixed_loss(mine, theirs, None, None, temperature=3.0, alpha=1.0, heads=heads)
    assert float(got) == pytest.approx(float(by_hand), rel=1e-5)
    pair = mixed_loss(
        (mine["mask"], mine["boxes"]),
        (theirs["mask"], theirs["boxes"]),
        None,
        None,
        temperature=3.0,
        alpha=1.0,
        heads={"0": Head(0.0), "1": Head(7.0, "mse")},
    )
    assert float(pair) == pytest.approx(float(F.mse_loss(mine["boxes"], theirs["boxes"])), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), positions=st.integers(1, 6), width=st.integers(1, 5), other=st.integers(1, 5))
def test_attention_maps_are_those_of_numpy(n, positions, width, other):
    rng = np.random.default_rng(n + positions)
    student, teacher = rng.normal(size=(n, positions, width)), rng.normal(size=(n, positions, other))

    def by_numpy(x):
        strength = (x**2).sum(2)
        return strength / np.linalg.norm(strength, axis=1, keepdims=True)

    np.testing.assert_allclose(attention_map(torch.from_numpy(student)), by_numpy(student))
    cosine = (by_numpy(student) * by_numpy(teacher)).sum(1)
    got = attention_error(torch.from_numpy(student), torch.from_numpy(teacher))
    assert float(got) == pytest.approx((1 - cosine).mean(), abs=1e-12)


class Counting(nn.Module):
    """Counts its calls."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 2), 0

    def forward(self, x):
        self.calls += 1
        return {"y": self.linear(x)}


def test_the_teacher_is_asked_once_per_sample():
    teacher = Teacher(Counting(), count=6)
    x = torch.randn(6, 3)
    first = teacher(x[[0, 2, 4]], torch.tensor([0, 2, 4]))[0]
    teacher(x[[1, 3, 5]], torch.tensor([1, 3, 5]))
    again = teacher(x[[4, 1]], torch.tensor([4, 1]))[0]
    assert teacher.module.calls == 2
    assert torch.equal(again["y"][0], first["y"][2])
    teacher(x, None), teacher(x, None)
    assert teacher.module.calls == 4


def test_the_teachers_answers_outlast_a_break():
    x, index = torch.randn(6, 3), torch.arange(6)
    teacher = Teacher(Counting(), count=6)
    answers, _ = teacher(x, index)
    again = Teacher(Counting(), count=6)
    again.load_state_dict(teacher.state_dict(), x[:1])
    asked = again.module.calls
    assert torch.equal(again(torch.zeros(6, 3), index)[0]["y"], answers["y"])
    assert again.module.calls == asked


def test_blends_lie_between_two_samples():
    x = torch.arange(8.0)[:, None].expand(8, 3)
    mixed = blend({"a": x, "b": x[:, :, None]}, torch.Generator().manual_seed(0))
    assert torch.equal(mixed["a"], mixed["b"][:, :, 0])
    assert torch.allclose(mixed["a"][:, 0], mixed["a"][:, 2])
    assert not torch.equal(mixed["a"], x)
    assert 0 <= float(mixed["a"].min()) <= float(mixed["a"].max()) <= 7


def blended(task, share, **options):
    lesson = DistillationObjective(task, Distill(temperature=4.0, alpha=0.9, **options))
    lesson.at(share)
    x, generator = task.train.inputs[:8], torch.Generator().manual_seed(0)
    return [not torch.equal(lesson.augment(x, generator), x) for _ in range(40)]


def test_half_of_the_batches_are_blends_until_the_last_part(tiny_task):
    assert 10 < sum(blended(tiny_task, 0.5)) < 30
    assert not any(blended(tiny_task, 0.9))
    assert not any(blended(tiny_task, 0.5, blend=False))
    x, y = images()
    own = task_of(seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4))), x, y, augment=lambda x, g: x + 1)
    assert all(blended(own, 0.9))
    lesson = DistillationObjective(own, Distill(temperature=4.0, alpha=0.9, blend=True))
    sample, generator = own.train.inputs[:8], torch.Generator().manual_seed(0)
    made = [lesson.augment(sample, generator) for _ in range(40)]
    assert 10 < sum(torch.equal(x, sample + 1) for x in made) < 30
    objective = DistillationObjective(own, Distill(temperature=4.0, alpha=0.9))
    assert all(torch.equal(objective.augment(sample, generator), sample + 1) for _ in made)


def test_integer_inputs_are_never_blended():
    tokens = torch.randint(0, 9, (64, 5))
    task = task_of(
        seeded(lambda: nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(40, 4))), tokens, images()[1]
    )
    assert not any(blended(task, 0.5))


@pytest.mark.slow
def test_distillation_wins_back_what_pruning_cost(tiny_task):
    cache = {}
    pruned = Recipe(Prune(0.5)).apply(tiny_task, cache=cache)
    distilled = Recipe(Prune(0.5), Distill(epochs=6)).apply(tiny_task, cache=cache)
    recovered = Recipe(Prune(0.5), Recover(epochs=6)).apply(tiny_task, cache=cache)
    assert pruned.quality < 0.8
    assert min(distilled.quality, recovered.quality) > pruned.quality + 0.1
    assert distilled.module.stem.weight.is_contiguous()
    assert not distilled.module.training
    report = distilled.reports[-1]
    assert report.touched == len(report.layers)
    assert (report.params_before, report.macs_before) == (report.params_after, report.macs_after)


def test_several_inputs_and_outputs_can_be_distilled():
    variant = Recipe(Distill(epochs=1)).apply(two_heads_task())
    assert variant.reports[0].epochs_done == 1


def test_weights_that_are_frozen_stay_and_are_reported():
    def build():
        module = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)))()
        module[1].requires_grad_(False)
        return module

    x, y = images()
    report = Recipe(Distill(epochs=1, alpha=0.0)).apply(task_of(build, x, y)).reports[0]
    assert {layer.name: layer.touched for layer in report.layers} == {"1": False, "3": True}
    assert "frozen" in report.layers[0].reason


def matching_of(student, teacher, *pairs, example=None, weights=None):
    example = torch.randn(4, 1, 8, 8) if example is None else example
    return FeatureMatching(
        student, teacher, example, pairs, weights=weights or {"features": 1.0, "attention": 1.0}, seed=0
    ), example


def test_features_of_one_width_are_compared_as_they_are():
    student, teacher = small_net().eval(), small_net().eval()
    matching, x = matching_of(student, teacher, Pair("2", "2", "features"), Pair("5", "5", "features"))
    assert not list(matching.projections.parameters())
    student(x), teacher(x)
    first = [F.mse_loss(student[:n](x), teacher[:n](x)) / teacher[:n](x).var(correction=0) for n in (3, 6)]
    assert float(matching.loss().detach()) == pytest.approx(float(sum(first).detach() / 2), rel=1e-5)
    matching.close()
    assert not any(part._forward_hooks for module in (student, teacher) for part in module.modules())


def test_a_projection_is_a_convolution_of_1x1_that_learns():
    student, teacher = small_net(width=6).eval(), small_net(width=8).eval()
    matching, x = matching_of(student, teacher, Pair("2", "2", "features"))
    projection = matching.projections[0]
    assert projection.weight.shape == (8, 6)
    student(x), teacher(x)
    value = matching.loss()
    by_convolution = F.conv2d(student[:3](x), projection.weight[:, :, None, None], projection.bias)
    assert float(value.detach()) == pytest.approx(
        float(feature_error(by_convolution, teacher[:3](x)).detach()), rel=1e-4
    )
    value.backward()
    assert projection.weight.grad.abs().sum() > 0
    assert student[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_larger_map_is_averaged_down():
    student, teacher = nn.Sequential(nn.Conv2d(1, 3, 2, stride=2)), nn.Sequential(nn.Conv2d(1, 3, 1))
    matching, x = matching_of(student, teacher, Pair("0", "0", "features"), Pair("0", "0", "attention"))
    student(x), teacher(x)
    pooled = F.avg_pool2d(teacher(x), 2)
    maps = [attention_map(y.permute(0, 2, 3, 1).flatten(1, 2)) for y in (student(x), pooled)]
    wanted = feature_error(student(x), pooled) + (1 - (maps[0] * maps[1]).sum(1)).mean()
    assert float(matching.loss().detach()) == pytest.approx(float(wanted), rel=1e-5)


def test_the_channels_of_tokens_are_last():
    student, teacher = nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3)), nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))
    tokens = torch.randn(2, 7, 5)
    matching, x = matching_of(student, teacher, Pair("1", "1", "features"), Pair("1", "1", "attention"), example=tokens)
    assert matching.projections[0].weight.shape == (4, 3)
    student(x), teacher(x)
    maps = [attention_map(module(x)) for module in (student, teacher)]
    assert maps[0].shape == (2, 7)
    wanted = feature_error(matching.projections[0](student(x)), teacher(x)) + (1 - (maps[0] * maps[1]).sum(1)).mean()
    assert float(matching.loss().detach()) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (Pair("9.x", "9", "features"), "Distill.features: the student has no layer '9.x'"),
        (Pair("9", "layer", "attention"), "Distill.attention: the teacher has no layer 'layer'"),
        (Pair("9", "9", "attention"), r"'9' gives \[4, 4\]; a map over positions is needed"),
        (Pair("9", "2", "features"), r"positions \[\] and the teacher's '2' has \[8, 8\]"),
    ],
)
def test_layers_that_cannot_be_matched_are_told(pair, words):
    with pytest.raises(ConfigError, match=words):
        matching_of(small_net().eval(), small_net().eval(), pair)


def test_a_layer_that_does_not_run_is_told():
    module = nn.Sequential(nn.Conv2d(1, 1, 1))
    module[0].unused = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"'0\.unused' gives no tensor"):
        matching_of(module, module, Pair("0.unused", "0.unused", "features"))


def test_features_and_attention_bring_the_student_closer():
    task = small_task()
    step = Distill(epochs=6, batch_size=16, features=("5",), attention=("2",), feature_weight=5.0, blend=False)
    cache = {}
    pruned = Recipe(Prune(0.5, round_to=1)).apply(task, cache=cache)
    learned = Recipe(Prune(0.5, round_to=1), step).apply(task, cache=cache)
    teacher, x = task.model(), task.train.inputs

    def apart(module):
        with torch.no_grad():
            maps = [attention_map(m[:3](x).permute(0, 2, 3, 1).flatten(1, 2)) for m in (module, teacher)]
        return float((1 - (maps[0] * maps[1]).sum(1)).mean())

    assert apart(learned.module) < 0.7 * apart(pruned.module)
    assert {type(part) for part in learned.module.modules()} == {type(part) for part in teacher.modules()}
    assert not any(part._forward_hooks for part in learned.module.modules())
    assert learned.params == pruned.params


def test_temperature_and_alpha_move_in_a_straight_line():
    task = small_task()
    ends = {"temperature": 4.0, "temperature_end": 1.0, "alpha": 1.0, "alpha_end": 0.5}
    lesson = DistillationObjective(task, Distill(**ends, blend=False, precision="float32"))
    index = torch.arange(8)
    x, y = task.train.inputs[index], task.train.targets[index]
    outputs, wanted = torch.randn(8, 4), task.model()(x).detach()
    for share, temperature, alpha in [(0.0, 4.0, 1.0), (0.5, 2.5, 0.75), (1.0, 1.0, 0.5), (1.7, 1.0, 0.5)]:
        lesson.at(share)
        got = lesson.loss(outputs, x, y, index)
        by_hand = mixed_loss(outputs, wanted, y, task.loss, temperature=temperature, alpha=alpha)
        assert float(got) == pytest.approx(float(by_hand), rel=1e-5)


MODELS = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))

def zeros():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    nn.init.zeros_(net[1].weight), nn.init.constant_(net[1].bias, 0.0)
    net[1].bias.data[2] = 9.0
    return net

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 4)

    def forward(self, image):
        return self.head(torch.relu(self.body(image)).mean((2, 3)))

def own():
    return Own()

def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

def other_input():
    return nn.Linear(3, 4)

def number():
    return 3
"""


@pytest.fixture
def models(tmp_path):
    path = tmp_path / "models.py"
    path.write_text(MODELS)
    return path


def test_another_teacher_is_learned_from(models):
    task = small_task()
    step = Distill(epochs=8, batch_size=16, alpha=1.0, blend=False, learning_rate=0.2, teacher=f"{models}:zeros")
    module = Recipe(step).apply(task).module
    assert set(module(task.train.inputs).argmax(1).tolist()) == {2}  # what that teacher always says


@pytest.mark.parametrize("name", ["small", "own"])
def test_a_student_of_ones_own_is_trained_reported_and_saved(models, tmp_path, name):
    task = small_task()
    recipe = Recipe(Distill(epochs=4, batch_size=16, learning_rate=0.05, student=f"{models}:{name}"))
    variant = recipe.apply(task)
    assert torch.equal(variant.predict(task.train.inputs), recipe.apply(task).predict(task.train.inputs))
    report = variant.reports[0]
    assert variant.params == report.params_after == sum(p.numel() for p in variant.module.parameters())
    assert report.params_after < report.params_before
    assert report.label == recipe.label == f"distill into {name}"
    assert any("structure is that of student=" in note for note in report.notes)
    assert {(layer.touched, layer.reason) for layer in report.layers} == {(True, "the student's own: trained")}
    artifact = save_variant(variant, tmp_path / "a")
    again = load_module(artifact, task.build, trust=True)
    x = task.validation.inputs
    torch.testing.assert_close(again(x), variant.predict(x), rtol=1e-4, atol=1e-5)
    assert artifact.manifest["replayable"] or artifact.manifest["replay_reason"]


def test_a_student_of_ones_own_learns_features_by_other_names_and_is_quantized(models):
    step = Distill(epochs=1, batch_size=16, student=f"{models}:own", features=("body=2",), attention=("body=2",))
    variant = Recipe(step, Quantize()).apply(small_task())
    assert variant.quantized


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teacher": "{models}:nothing"}, "Distill.teacher=.*'nothing' does not exist.*small, zeros"),
        ({"teacher": "{folder}/no.py:f"}, "The model file .*no.py"),
        ({"teacher": "{models}:number"}, "must return a torch.nn.Module, got int"),
        ({"teacher": "{models}:wide"}, r"gives output: float32 \[5\] .*model gives output: float32 \[4\]"),
        ({"student": "{models}:other_input"}, "cannot run on the task's inputs: RuntimeError"),
        ({"features": ("layer",)}, "the teacher has no layer 'layer'"),
        ({"features": ("1=2",), "student": "{models}:own"}, "the student has no layer '1'. The model has body, head"),
        ({"heads": ("logit=1",)}, "Unknown floating-point output 'logit'.*Allowed: output"),
        ({"heads": ("output=0",)}, "weight 0 to every output"),
    ],
)
def test_what_cannot_work_is_told_before_any_step(models, options, words):
    given = {
        key: value.format(models=models, folder=models.parent) if isinstance(value, str) else value
        for key, value in options.items()
    }
    task, events = small_task(), []
    steps = (Distill(**given),) if "student" in given else (Prune(0.5, round_to=1), Distill(**given))
    with pytest.raises(ConfigError, match=words):
        Recipe(*steps).apply(task, progress=events.append)
    assert not events


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": ("logits",)}, "'logits' is not 'name=weight'"),
        ({"heads": ("logits=-1",)}, "weight of 0 or more"),
        ({"heads": ("logits=1:kll",)}, "Did you mean 'kl'"),
        ({"heads": ("a=1", "a=2")}, "names an output twice"),
        ({"features": ("=a",)}, "neither a layer's name nor 'student=teacher'"),
        ({"attention": ("a=",)}, "Distill.attention: 'a='"),
    ],
)
def test_entries_that_cannot_be_read_are_refused_at_once(options, words):
    with pytest.raises(ConfigError, match=words):
        Distill(**options)


def test_a_student_of_ones_own_comes_first():
    with pytest.raises(RecipeError, match="the effect of Prune would be lost"):
        Recipe(Prune(), Distill(student="a.py:f"))
    Recipe(Distill(student="a.py:f"), Prune())


@pytest.mark.parametrize(("quiet", "moved"), [("logits", "maps"), ("maps", "logits")])
def test_a_head_of_weight_0_teaches_nothing(quiet, moved):
    step = Distill(epochs=1, batch_size=16, alpha=1.0, blend=False, heads=(f"{quiet}=0",), learning_rate=0.1)
    task = two_heads_task()
    module = Recipe(step.replace(teacher=f"{__file__}:other_heads")).apply(task).module
    before = task.model()
    assert torch.equal(getattr(module, quiet).bias, getattr(before, quiet).bias)  # no decay on vectors
    assert not torch.equal(getattr(module, moved).bias, getattr(before, moved).bias)


def other_heads():
    """Return a teacher with the heads of the task, and other weights."""
    torch.manual_seed(9)
    return TwoHeads()


class Forbidden:
    """An evaluation split that must not be read."""

    def __getattr__(self, name):
        raise AssertionError(f"a step read the evaluation split ({name})")

    def __len__(self):
        raise AssertionError("a step read the evaluation split")


EVERY_OPTION = [
    Distill(epochs=1, features=("2",), attention=("5",), patience=1, evaluate_every=0.5, alpha_end=0.5),
    Distill(epochs=1, heads=("output=1:mse",), temperature_end=1.0, schedule="one_cycle", precision="bfloat16"),
    Distill(epochs=1, teacher="{models}:small", blend=False, schedule="constant", max_seconds=60.0),
    Distill(epochs=1, student="{models}:own"),
    Recover(epochs=1, patience=1, batch_norm="reestimate", fold=True, precision="float32"),
    Recover(epochs=1, schedule="one_cycle", evaluate_every=0.5, max_seconds=60.0),
    Recover(epochs=0, batch_norm="reestimate", fold=True),
]


@pytest.mark.parametrize("step", EVERY_OPTION, ids=lambda step: type(step).__name__)
def test_no_step_reads_the_evaluation_split(step, models, tmp_path):
    task = small_task()
    assert task.fingerprint and not task.check()  # both look at all splits, before any step
    task._splits["evaluation"] = Forbidden()
    with pytest.raises(AssertionError, match="evaluation split"):
        task.evaluate(task.model())
    changes = {
        role: getattr(step, role).format(models=models)
        for role in ("teacher", "student")
        if getattr(step, role, None) is not None
    }
    step = step.replace(batch_size=16, **changes)
    first = () if "student" in changes else (Prune(0.5, round_to=1),)
    variant = Recipe(*first, step).apply(task, progress=ignore_progress, checkpoints=tmp_path / "state")
    assert variant.reports[-1].step == step
