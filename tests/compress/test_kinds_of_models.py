"""Kinds of models that broke a step, or passed it and were wrong."""

from __future__ import annotations

import collections

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import workbench as wb
from workbench.compress.training.losses import class_outputs
from workbench.core.errors import TaskError, WorkbenchError
from workbench.export.capture import export_program
from workbench.tasks.module import copy_module

Out = collections.namedtuple("Out", ["logits", "hidden"])


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def task_of(make, x, y=None, *, loss=F.cross_entropy, metric=None, **more):
    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make().eval()

    y = torch.arange(len(x)) % 3 if y is None else y
    metric = metric or (lambda out, y: float((out.argmax(1) == y).float().mean()))
    return wb.Task(
        name="odd", build=build, train=(x, y), evaluation=(x[-40:] + 0.01, y[-40:]), metric=metric, loss=loss, **more
    )


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 128), nn.Linear(64, 3)

    def forward(self, x):
        u, v = self.a(x).chunk(2, -1)
        return self.b(u * v.sigmoid())


@pytest.mark.parametrize(("ratio", "round_to"), [(0.1, 1), (0.3, 1), (0.5, 8), (0.3, 8)])
def test_channels_that_drag_others_of_one_layer_along_leave_as_one_unit(ratio, round_to):
    variant = wb.Recipe(wb.Prune(ratio=ratio, round_to=round_to)).apply(task_of(Gated, noise(300, 16)))
    left = variant.module.a.out_features
    assert left % 2 == 0 and left % round_to == 0
    assert abs(left - 128 * (1 - ratio)) <= max(2, round_to)


class Sliced(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 48, 3, padding=1), nn.Conv2d(48, 8, 3)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        p, q = torch.split(self.a(x).relu(), [16, 32], 1)
        return self.out(self.b(torch.cat([p, q[:, :16], p], 1)).mean((2, 3)))


def test_a_split_whose_parts_are_joined_twice_is_cut_or_left_whole():
    variant = wb.Recipe(wb.Prune(ratio=0.25, round_to=1, allow_untouched=True)).apply(
        task_of(Sliced, noise(300, 3, 8, 8))
    )
    assert variant.predict(noise(2, 3, 8, 8)).shape == (2, 3)


class Dense(nn.Module):
    """Joins the model's own input with a layer's outputs, the input first, last or in the middle."""

    def __init__(self, place):
        super().__init__()
        self.place = place
        self.a, self.a2, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 8, 1), nn.Conv2d(27, 8, 1)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        parts = [self.a(x).relu(), self.a2(x).relu()]
        parts.insert(self.place, x)
        return self.out(self.b(torch.cat(parts, 1)).relu().mean((2, 3)))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_layers_whose_outputs_are_joined_with_the_input_are_cut(place):
    task = task_of(lambda: Dense(place), noise(300, 3, 8, 8))
    variant = wb.Recipe(wb.Prune(ratio=0.5, round_to=1)).apply(task)
    assert (variant.module.a.out_channels, variant.module.a2.out_channels) == (8, 4)
    assert variant.module.b.in_channels == 15
    assert variant.predict(noise(2, 3, 8, 8)).shape == (2, 3)


# losses that are no classification


def test_outputs_are_logits_only_if_the_loss_says_so():
    def r2(out, y):
        return float(1 - ((out - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())

    def hits(out, y):
        return float(((out > 0) == (y > 0)).float().mean())

    x, targets = noise(300, 12), noise(300, 4)
    linear = lambda: nn.Linear(12, 4)  # noqa: E731 - a builder
    assert class_outputs(task_of(linear, x)) == {"output"}
    assert class_outputs(task_of(linear, x, targets, loss=F.mse_loss, metric=r2)) == frozenset()
    labels = (targets > 0).float()
    bce = F.binary_cross_entropy_with_logits
    assert class_outputs(task_of(linear, x, labels, loss=bce, metric=hits)) == frozenset()
    logs = lambda: nn.Sequential(nn.Linear(12, 4), nn.LogSoftmax(1))  # noqa: E731 - a builder
    assert class_outputs(task_of(logs, x, loss=F.nll_loss)) == {"output"}


def test_distilling_a_regression_of_several_outputs_keeps_its_values():
    """With a softmax over the outputs a student may be off by any constant."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 4, generator=generator)
    x = noise(1500, 12)
    y = torch.tanh(x @ weight) * torch.tensor([1.0, 5.0, 0.2, 2.0]) + 3

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(12, 64), nn.Linear(64, 4)

        def forward(self, x):
            return self.b(self.a(x).relu())

    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()

    def r2(out, y):
        return float(1 - ((out - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())

    task = wb.Task(
        name="regression", build=lambda: net, train=(x, y), evaluation=(x[:300] + 1e-3, y[:300]), metric=r2,
        loss=F.mse_loss,
    )  # fmt: skip
    for alpha in (0.9, 1.0):
        variant = wb.Recipe(wb.Prune(ratio=0.2), wb.Distill(epochs=12, alpha=alpha)).apply(task)
        assert task.evaluate(variant.predict) > 0.9


# modules that hold what cannot be copied, or give what cannot be written


class Keeps(nn.Module):
    """Keeps activations on itself, as models with hooks for visualizing do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.kept = {}

    def forward(self, x):
        self.features = self.a(x).relu()
        self.kept["mean"] = [self.features.mean((2, 3))]
        return self.b(self.kept["mean"][0])


def test_an_activation_that_forward_keeps_is_no_obstacle(tmp_path):
    model = Keeps()
    model(noise(2, 3, 8, 8))
    task = task_of(lambda: model, noise(300, 3, 8, 8))
    for recipe in (wb.Recipe(wb.Prune(ratio=0.25, round_to=1), wb.Distill(epochs=1)), wb.Recipe(wb.Quantize())):
        variant = recipe.apply(task, cache=wb.PrefixCache(task, tmp_path / "cache"))
        assert variant.predict(noise(2, 3, 8, 8)).shape == (2, 3)


def test_what_cannot_be_copied_is_named():
    import threading

    model = nn.Sequential(nn.Linear(3, 3))
    model[0].guard = threading.Lock()
    with pytest.raises(TaskError, match=r"0\.guard is a lock"):
        copy_module(model)


@pytest.mark.parametrize("old", [True, False])
def test_weight_norm_of_either_kind_can_be_compressed(old):
    norm = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm

    def make():
        return nn.Sequential(
            norm(nn.Conv1d(4, 16, 3)), nn.ReLU(), norm(nn.Conv1d(16, 8, 3)), nn.Flatten(), nn.Linear(32, 3)
        )

    task = task_of(make, noise(300, 4, 8))
    task.check()
    for step in (wb.Prune(ratio=0.25, round_to=1), wb.Quantize()):
        variant = wb.Recipe(step).apply(task)
        assert any(layer.touched for layer in variant.reports[-1].layers)
        assert variant.predict(noise(2, 4, 8)).shape == (2, 3)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, x):
        hidden = self.a(x).relu()
        return Out(self.b(hidden), hidden)


@pytest.mark.slow
def test_named_outputs_reach_metric_loss_and_runtimes_with_their_names(tmp_path):
    task = task_of(
        Named,
        noise(300, 12),
        metric=lambda out, y: float((out.logits.argmax(1) == y).float().mean()),
        loss=lambda out, y: F.cross_entropy(out.logits, y),
    )
    task.check()
    for recipe in (
        wb.Recipe(),
        wb.Recipe(wb.Quantize()),
        wb.Recipe(wb.Distill(epochs=1)),
    ):
        variant = recipe.apply(task)
        assert 0 <= task.evaluate(variant.predict) <= 1
        variant.save(tmp_path / "a")
        back = wb.load_variant(tmp_path / "a", task)
        assert torch.allclose(back.predict(noise(2, 12)).logits, variant.predict(noise(2, 12)).logits, atol=1e-5)
        for backend in ("torch-eager", "onnxruntime"):
            with wb.OptimizedInferenceEngine.from_variant(variant, backend=backend) as engine:
                result = engine.predict(noise(2, 12)).result
                assert result.logits.shape == (2, 3) and result[1].shape[0] == 2


@pytest.mark.slow
def test_double_models_and_buffers_run_everywhere(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(12, 3)
            self.register_buffer("mean", torch.zeros(12, dtype=torch.float64))

        def forward(self, x):
            return self.out((x - self.mean).to(self.out.weight.dtype))

    for make in (Scaled, lambda: nn.Linear(12, 3).double()):
        task = task_of(make, noise(300, 12))
        task.check()
        wb.Recipe(wb.Prune(ratio=0.01, allow_untouched=True)).apply(task).save(tmp_path / "a")
        with wb.OptimizedInferenceEngine.from_artifact(
            tmp_path / "a", build=task.build, backend="torch-eager"
        ) as engine:
            assert engine.predict(noise(2, 12).numpy()).result.dtype.name == "float32"


def test_a_metric_in_float32_at_the_limit_is_within_it():
    from workbench.study.results.quality_limits import within_limit

    base, quality = torch.tensor(0.95), torch.tensor(0.94)
    assert within_limit(float(base) - float(quality), 0.01, quality=float(quality))
    assert not within_limit(0.0101, 0.01, quality=0.94)


@pytest.mark.parametrize("grouped", [1, 2, 8])
def test_a_transposed_convolution_in_groups_with_a_batch_norm_is_quantized_or_refused_in_words(grouped):
    def make():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 16, 2, stride=2, groups=grouped),
            nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip

    task = task_of(make, noise(300, 3, 6, 6))
    x = noise(4, 3, 6, 6)
    for step in (wb.Quantize(), wb.Quantize(exclude=("2",)), wb.Prune(ratio=0.25, round_to=1)):
        try:
            variant = wb.Recipe(step).apply(task)
        except WorkbenchError as error:
            assert len(str(error)) < 1000
            continue
        assert variant.predict(x).shape == (4, 3)
        if isinstance(step, wb.Quantize):
            want = task.model()(x)
            assert float((variant.predict(x) - want).pow(2).mean().sqrt()) < 0.2 * float(want.std()) + 0.02


class TwoWay(nn.Module):
    def __init__(self, kind, use):
        super().__init__()
        self.first, self.use = nn.Linear(6, 16), use
        self.rnn = kind(16, 12, batch_first=True, bidirectional=True)
        self.hidden, self.out = nn.Linear(24, 32), nn.Linear(32, 3)

    def forward(self, x):
        outputs, state = self.rnn(self.first(x).relu())
        state = state[0] if isinstance(state, tuple) else state
        joined = outputs.mean(1) if self.use == "mean" else torch.cat([state[0], state[1]], 1)
        return self.out(self.hidden(joined).relu())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("use", ["mean", "states"])
def test_two_way_recurrent_layers_stay_and_the_rest_is_cut(kind, use):
    task = task_of(lambda: TwoWay(kind, use), noise(300, 5, 6))
    variant = wb.Recipe(wb.Prune(ratio=0.5, round_to=1)).apply(task)
    assert variant.module.hidden.out_features == 16
    assert variant.predict(noise(2, 5, 6)).shape == (2, 3)


@pytest.mark.slow
def test_attention_behind_a_recurrent_layer_does_not_hang():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.gru = nn.Linear(6, 16), nn.GRU(16, 8, batch_first=True, bidirectional=True)
            self.norm, self.qkv, self.mix = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
            self.hidden, self.out = nn.Linear(16, 32), nn.Linear(32, 3)

        def forward(self, x):
            x = self.gru(self.first(x).relu())[0]
            n, length, _ = x.shape
            q, k, v = (t.reshape(n, length, 2, 8).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
            x = x + self.mix(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, 16))
            return self.out(self.hidden(x.amax(1)).relu())

    variant = wb.Recipe(wb.Prune(ratio=0.5, round_to=1)).apply(task_of(Net, noise(300, 5, 6)))
    assert variant.module.hidden.out_features == 16


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Keyed()

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class Keyed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, values, mask):
        return self.out(torch.relu(self.a(values)) * mask)


class OneNamed(Keywords):
    def forward(self, values, **rest):
        return self.inner(values, **rest)


@pytest.mark.parametrize("make", [Keywords, OneNamed])
def test_a_forward_of_any_keywords_is_captured_with_an_open_batch(make):
    torch.manual_seed(0)
    module = make().eval()
    batch = torch.export.Dim("batch")
    inputs = {"values": noise(3, 6), "mask": noise(3, 16)}
    shapes = torch.export.ShapesCollection()
    for leaf in inputs.values():
        shapes[leaf] = {0: batch}
    program = export_program(module, (), dict(inputs), shapes)
    other = {"values": noise(5, 6), "mask": noise(5, 16)}
    assert torch.allclose(program.module()(**other), module(**other), atol=1e-6)
    assert "forward" not in vars(module)
