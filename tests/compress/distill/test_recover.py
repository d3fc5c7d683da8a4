"""Recover's tidying of batch norms: statistics against numpy, folding against the model as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from compress_models import OptionA, images, seeded, small_net, small_task, task_of
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from workbench.artifact import load_module, save_variant
from workbench.compress import Prune, Recipe, Recover, Sparsify
from workbench.compress.graph.batchnorm import fold_batch_norms, reestimate
from workbench.core.errors import CoverageError
from workbench.tasks.split import Split


def quiet(_):
    pass


@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 40), batch_size=st.integers(1, 50), channels=st.integers(1, 4), images=st.booleans())
def test_the_statistics_are_those_of_the_whole_split(count, batch_size, channels, images):
    shape = (count, channels, 3, 2) if images else (count, channels)
    data = torch.randn(shape, generator=torch.Generator().manual_seed(count)) * 3 + 100
    norm = (nn.BatchNorm2d if images else nn.BatchNorm1d)(channels).eval()
    assert reestimate(nn.Sequential(norm), Split(data), batch_size=batch_size, progress=quiet) == {"0"}
    axes = (0, 2, 3) if images else (0,)
    wanted = data.numpy().astype(np.float64)
    np.testing.assert_allclose(norm.running_mean, wanted.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(norm.running_var, wanted.var(axes, ddof=1), rtol=1e-5)
    assert int(norm.num_batches_tracked) == 0
    assert not norm.training


def test_a_norm_behind_others_sees_what_it_sees_in_training():
    module = seeded(lambda: small_net(dropout=0.5))()
    x, _ = images(50)
    reestimate(module, Split(x), batch_size=16, progress=quiet)
    conv1, _, _, conv2 = module[:4]
    seen = []
    with torch.no_grad():
        for part in np.array_split(np.arange(50), 3):
            made = conv1(x[part])
            mean, var = made.mean((0, 2, 3), keepdim=True), made.var((0, 2, 3), keepdim=True, unbiased=False)
            norm = module[1]
            y = (made - mean) / torch.sqrt(var + norm.eps) * norm.weight[:, None, None] + norm.bias[:, None, None]
            seen.append(conv2(F.relu(y)).numpy().astype(np.float64))
    wanted = np.concatenate(seen)
    np.testing.assert_allclose(module[4].running_mean, wanted.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(module[4].running_var, wanted.var((0, 2, 3), ddof=1), rtol=1e-4)
    assert not any(part.training for part in module.modules())


def test_reestimation_alone_brings_wrong_statistics_back():
    task = small_task()

    def spoilt():
        module = task.model()
        module[1].running_mean.add_(5.0)
        return module

    broken = task_of(spoilt, *images(96))
    step = Recover(epochs=0, batch_norm="reestimate")
    variant = Recipe(Prune(0.5, round_to=1, exclude=("0",), allow_untouched=True), step).apply(broken)
    report = variant.reports[-1]
    assert report.epochs_done == 0
    assert {layer.name for layer in report.layers if layer.touched} == {"1", "4"}
    assert all("recomputed" in layer.reason for layer in report.layers if layer.touched)
    seen = variant.module[0](task.train.inputs).detach().numpy()
    np.testing.assert_allclose(variant.module[1].running_mean, seen.mean((0, 2, 3)), rtol=1e-3, atol=1e-5)


def test_training_and_reestimation_go_together():
    variant = Recipe(Prune(0.5, round_to=1), Recover(epochs=1, batch_size=16, batch_norm="reestimate")).apply(
        small_task()
    )
    reasons = {layer.name: layer.reason for layer in variant.reports[-1].layers}
    assert reasons["1"] == "trained; running statistics recomputed"
    assert reasons["0"] == "trained"
    seen = variant.module[0](variant.task.train.inputs).detach().numpy()
    np.testing.assert_allclose(variant.module[1].running_mean, seen.mean((0, 2, 3)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_model_that_is_a_batch_norm_is_reported_by_one_name(epochs):
    x, y = images()
    task = task_of(seeded(lambda: nn.BatchNorm1d(4)), x.flatten(1)[:, :4], y)
    steps = Sparsify(0.5, allow_untouched=True), Recover(epochs=epochs, batch_norm="reestimate", allow_untouched=True)
    layers = Recipe(*steps).apply(task).reports[-1].layers
    assert [(layer.name, layer.touched) for layer in layers] == [("(model)", True)]


def test_a_model_without_batch_norm_has_nothing_to_tidy():
    x, y = images()
    task = task_of(seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))), x, y)
    with pytest.raises(CoverageError, match="epochs is 0"):
        Recipe(Prune(0.5, round_to=1), Recover(epochs=0, batch_norm="reestimate", fold=True)).apply(task)
    notes = Recipe(Prune(0.5, round_to=1), Recover(epochs=1, batch_norm="reestimate")).apply(task).reports[-1].notes
    assert any("No BatchNorm" in note for note in notes)


CONVS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}


@settings(max_examples=25, deadline=None)
@given(
    rank=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    mode=st.sampled_from(["zeros", "circular"]),
    bias=st.booleans(),
    affine=st.booleans(),
)
def test_a_folded_model_gives_the_same(rank, groups, kernel, stride, padding, mode, bias, affine):
    conv, norm = CONVS[rank]
    torch.manual_seed(rank * 100 + groups)
    made = conv(4, 8, kernel, stride, padding, groups=groups, bias=bias, padding_mode=mode)
    layer = norm(8, affine=affine)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.1, 3)
    if affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    module = nn.Sequential(made, layer, nn.ReLU()).eval()
    before = copy.deepcopy(module)
    x = torch.randn(2, 4, *[6] * rank)
    assert fold_batch_norms(module, x) == {"1": "folded into 0"}
    assert isinstance(module[1], nn.Identity)
    other = torch.randn(3, 4, *[7] * rank)
    torch.testing.assert_close(module(other), before(other), rtol=1e-4, atol=1e-5)


def test_a_transposed_convolution_is_folded_unless_it_is_grouped():
    for groups, words in ((1, "folded into 0"), (2, "0 is of a kind that cannot be folded")):
        module = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups), nn.BatchNorm2d(6)).eval()
        module[1].running_var.uniform_(0.5, 2)
        before, x = copy.deepcopy(module), torch.randn(2, 4, 5, 5)
        assert fold_batch_norms(module, x) == {"1": words}
        torch.testing.assert_close(module(x), before(x), rtol=1e-4, atol=1e-5)


class Net(nn.Module):
    """A convolution, a norm, and a way to use them that is given."""

    def __init__(self, use):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.use = use
        for layer in (self.norm, self.other):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.use(self, x)


def kept(net, x):
    made = net.conv(x)
    return net.norm(made) + made


def viewed(net, x):
    made = net.conv(x)
    return net.norm(made) + made.view(made.shape).mean()


def returned(net, x):
    made = net.conv(x)
    return net.norm(made), made


def two_norms(net, x):
    made = net.conv(x)
    return net.norm(made) + net.other(made)


def tied(net, x):
    return net.norm(net.conv(x)) + F.conv2d(x, net.conv.weight)


def looked_into(net, x):
    return net.norm(net.conv(x)) * net.norm.weight[0]


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (kept, "others take the output of conv too"),
        (viewed, "others take the output of conv too"),
        (returned, "others take the output of conv too"),
        (two_norms, "others take the output of conv too"),
        (tied, "conv is used more than once"),
        (looked_into, "the model fails without it"),
        (lambda net, x: net.norm(net.conv(net.conv(x))), "conv is used more than once"),
        (lambda net, x: net.norm(net.norm(net.conv(x))), "runs 2 times"),
        (lambda net, x: net.norm(F.relu(net.conv(x))), "does not follow a convolution"),
        (lambda net, x: net.norm(F.relu_(net.conv(x))), "others take the output of conv too"),
        (lambda net, x: net.conv(net.norm(x)), "does not follow a convolution"),
        (lambda net, x: net.conv(x), "is not reached"),
    ],
)
def test_a_norm_that_cannot_be_folded_stays_and_says_why(use, reason):
    module = Net(use).eval()
    before, x = copy.deepcopy(module), torch.randn(2, 3, 4, 4)
    words = fold_batch_norms(module, x)["norm"]
    assert reason in words
    assert isinstance(module.norm, nn.BatchNorm2d)
    got, wanted = module(x), before(x)
    pairs = zip(got, wanted, strict=True) if isinstance(got, tuple) else [(got, wanted)]
    assert all(torch.equal(a, b) for a, b in pairs)


def test_reading_a_shape_is_no_use():
    module = Net(lambda net, x: net.norm(net.conv(x)).reshape(x.shape[0], net.conv(x).shape[1], -1)).eval()
    assert "more than once" in fold_batch_norms(module, torch.randn(2, 3, 4, 4))["norm"]

    def shaped(net, x):
        made = net.conv(x)
        return net.norm(made).reshape(made.shape[0], -1)

    module = Net(shaped).eval()
    assert fold_batch_norms(module, torch.randn(2, 3, 4, 4))["norm"] == "folded into conv"


def test_a_folded_variant_is_saved_and_comes_back(tmp_path):
    task = task_of(seeded(OptionA), *images())
    variant = Recipe(Prune(0.5, round_to=1), Recover(epochs=1, batch_size=16, fold=True)).apply(task)
    assert isinstance(variant.module.norm1, nn.Identity)
    report = variant.reports[-1]
    assert report.params_after < report.params_before
    assert {layer.name: layer.reason for layer in report.layers}["norm1"] == "trained; folded into conv1"
    assert any("2 of 2 batch norms were folded" in note for note in report.notes)
    artifact = save_variant(variant, tmp_path / "a")
    assert artifact.manifest["replayable"]
    again, x = load_module(artifact, task.build), task.validation.inputs
    torch.testing.assert_close(again(x), variant.predict(x))
    assert isinstance(again.norm1, nn.Identity)
