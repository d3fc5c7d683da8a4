"""Pruning, against a direct call of torch-pruning and against the model with silent channels."""

from __future__ import annotations

import pytest
import torch
import torch_pruning
from compress_models import Attentive, OptionA, TinyViT, images, seeded, task_of
from torch import nn
from torch.nn import functional as F

from workbench.compress import Prune, Recipe, Recover
from workbench.core.errors import ConfigError, CoverageError


def pruned(build, step, **options):
    x, y = images()
    return Recipe(step).apply(task_of(build, x, y, **options))


def layers(variant):
    return {layer.name: layer for layer in variant.reports[-1].layers}


class Plain(nn.Module):
    """A residual net that can be pruned throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 16, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, image):
        x = F.relu(self.norm(self.stem(image)))
        x = F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(("kind", "p"), [("l2", 2), ("l1", 1)])
def test_the_result_is_that_of_torch_pruning_called_directly(kind, p):
    build = seeded(Plain)
    variant = pruned(build, Prune(0.5, importance=kind))
    oracle = build()
    x, _ = images()
    pruner = torch_pruning.pruner.BasePruner(
        oracle,
        x[:2],
        torch_pruning.importance.MagnitudeImportance(p=p),
        pruning_ratio=0.5,
        ignored_layers=[oracle.head],
        round_to=8,
    )
    pruner.step()
    assert [tuple(p.shape) for p in variant.module.parameters()] == [tuple(p.shape) for p in oracle.parameters()]
    assert torch.allclose(variant.predict(x), oracle.eval()(x), atol=1e-6)


def test_widths_halve_inside_residual_groups_and_outputs_stay():
    variant = pruned(seeded(Plain), Prune(0.5))
    module = variant.module
    assert (module.stem.out_channels, module.conv1.out_channels, module.conv2.out_channels) == (8, 16, 8)
    assert (module.head.in_features, module.head.out_features) == (8, 4)
    found = layers(variant)
    assert found["conv1"].reason == "outputs 32 -> 16, inputs 16 -> 8"
    assert "outputs of the model" in found["head"].reason
    places = 64
    macs = places * 9 * (8 + 8 * 16 + 16 * 8) + 8 * 4
    assert variant.macs == macs


def test_the_cut_model_is_the_model_with_silent_channels():
    build = seeded(Plain)
    x, _ = images()
    variant = pruned(build, Prune(0.5))
    whole = build()
    kept = {tuple(row.flatten().tolist()) for row in variant.module.stem.weight}
    gone = [i for i, row in enumerate(whole.stem.weight) if tuple(row.flatten().tolist()) not in kept]
    assert len(gone) == 8
    inner = variant.module.norm1.running_mean
    silent = [i for i, mean in enumerate(whole.norm1.running_mean) if not torch.any(inner == mean)]
    with torch.no_grad():
        for norm, index in ((whole.norm, gone), (whole.norm2, gone), (whole.norm1, silent)):
            norm.weight[index] = 0
            norm.bias[index] = 0
        assert torch.allclose(variant.predict(x), whole(x), atol=1e-5)


@pytest.mark.parametrize(("ratio", "round_to", "width"), [(0.3, 8, 24), (0.3, 4, 24), (0.3, 1, 22), (0.9, 8, 8)])
def test_widths_are_rounded_to_the_nearest_multiple(ratio, round_to, width):
    variant = pruned(seeded(Plain), Prune(ratio, round_to=round_to))
    assert variant.module.conv1.out_channels == width


def test_rounding_that_keeps_everything_is_said():
    with pytest.raises(CoverageError, match="round_to=32 keeps all 16 channels"):
        pruned(seeded(Plain), Prune(0.5, round_to=32))


def test_excluded_names_keep_their_width():
    variant = pruned(seeded(Plain), Prune(0.5, exclude=("stem",)))
    assert (variant.module.stem.out_channels, variant.module.conv1.out_channels) == (16, 16)
    found = layers(variant)
    assert not found["stem"].touched
    assert "shares its channels with stem" in found["conv2"].reason
    with pytest.raises(ConfigError, match="Did you mean 'conv1'"):
        pruned(seeded(Plain), Prune(0.5, exclude=("conv_1",)))


def test_a_global_ranking_takes_from_weak_layers_first():
    def build():
        module = seeded(Plain)()
        with torch.no_grad():
            module.conv1.weight[:24] *= 0.01
            module.norm1.weight[:24] *= 0.01
            module.conv2.weight[:, :24] *= 0.01
        return module

    variant = pruned(build, Prune(0.5, scope="global"))
    assert variant.module.conv1.out_channels == 8
    assert variant.module.stem.out_channels == 16
    assert "ranking keeps all 16" in layers(variant)["stem"].reason


def test_fixed_padding_in_forward_is_found_out_and_left_alone():
    variant = pruned(seeded(OptionA), Prune(0.5))
    found = layers(variant)
    assert (variant.module.conv1.out_channels, variant.module.stem.out_channels) == (16, 16)
    assert found["conv1"].touched
    assert not found["stem"].touched
    assert "forward" in found["stem"].reason
    assert "fixed sizes" in variant.reports[0].notes[0]


def test_channels_that_a_reshape_would_mix_up_are_left_alone():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 16, 1), nn.Conv2d(16, 16, 1, groups=1)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            x = F.relu(self.a(x))
            x = x.reshape(x.shape[0], 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
            return self.head(F.relu(self.b(x)).mean((2, 3)))

    variant = pruned(seeded(Shuffled), Prune(0.5))
    assert layers(variant)["b"].touched
    x, _ = images()
    assert variant.predict(x).shape == (64, 4)


def test_a_transformer_loses_hidden_units_only():
    variant = pruned(seeded(TinyViT), Prune(0.5))
    found = layers(variant)
    assert (variant.module.fc1.out_features, variant.module.fc2.in_features) == (16, 16)
    assert "LayerNorm" in found["embed"].reason
    assert not found["qkv"].touched
    assert variant.predict(images()[0]).shape == (64, 4)


def test_grouped_and_depthwise_convolutions_with_group_norm():
    def net():
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.GroupNorm(4, 32),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 4),
        )

    variant = pruned(seeded(net), Prune(0.5))
    assert variant.module[0].out_channels == variant.module[3].groups == 16
    assert variant.module[5].out_channels == 16
    assert variant.predict(images()[0]).isfinite().all()


def test_frozen_weights_stay_frozen():
    def build():
        module = seeded(Plain)()
        module.stem.requires_grad_(False)
        return module

    module = pruned(build, Prune(0.5)).module
    assert not module.stem.weight.requires_grad
    assert module.conv1.weight.requires_grad


@pytest.mark.parametrize("fused", [True, False])
def test_attention_heads_leave_whole_and_the_rest_answers_as_if_they_were_silent(fused):
    build = seeded(lambda: Attentive(fused))
    variant = pruned(build, Prune(0.5))
    whole = build()
    assert variant.module.proj.in_features == 8
    kept = {tuple(column.tolist()) for column in variant.module.proj.weight.T}
    gone = [i for i, column in enumerate(whole.proj.weight.T) if tuple(column.tolist()) not in kept]
    assert len({place // 4 for place in gone}) == 2 and len(gone) == 8
    with torch.no_grad():
        whole.proj.weight[:, gone] = 0
        x, _ = images()
        assert torch.allclose(variant.predict(x), whole(x), atol=1e-5)


class Counting(Attentive):
    """Attention that reads the number of heads and their joint width from attributes."""

    def __init__(self) -> None:
        super().__init__(fused=False)
        self.num_attention_heads, self.all_head_size = 4, 16

    def forward(self, image):
        x = self.embed(image).flatten(2).transpose(1, 2)
        n, tokens, _ = x.shape
        split = (n, tokens, self.num_attention_heads, 4)
        q, k, v = (layer(self.norm(x)).view(split).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, self.all_head_size)
        return self.head((x + self.proj(y)).mean(1))


def test_attributes_that_count_heads_are_changed_with_them():
    variant = pruned(seeded(Counting), Prune(0.5))
    module = variant.module
    assert (module.num_attention_heads, module.all_head_size, module.proj.in_features) == (2, 8, 8)
    assert variant.predict(images()[0]).shape == (64, 4)


def test_heads_leave_in_later_steps_too():
    x, y = images()
    recipe = Recipe(Prune(0.25), Recover(epochs=0.1), Prune(0.3))
    variant = recipe.apply(task_of(seeded(lambda: Attentive(True)), x, y))
    assert variant.module.proj.in_features == 8


def gradients(build, count, size):
    """Return the module, and the loss's gradients over the training samples in batches of ``size``."""
    x, y = images()
    task = task_of(build, x, y)
    module = build()
    index = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0))[:count]
    found = []
    for start in range(0, count, size):
        part = task.train.take(index[start : start + size])
        loss = F.cross_entropy(module(part.inputs), part.targets)
        found.append(torch.autograd.grad(loss, list(module.parameters())))
    return module, x, [torch.stack(column) for column in zip(*found, strict=True)]


def test_taylor_is_that_of_torch_pruning_called_directly():
    build = seeded(Plain)
    variant = pruned(build, Prune(0.5, importance="taylor", samples=32))
    oracle, x, columns = gradients(build, 32, 32)
    for parameter, column in zip(oracle.parameters(), columns, strict=True):
        parameter.grad = column.mean(0)
    pruner = torch_pruning.pruner.BasePruner(
        oracle,
        x[:2],
        torch_pruning.importance.TaylorImportance(),
        pruning_ratio=0.5,
        ignored_layers=[oracle.head],
        round_to=8,
    )
    pruner.step()
    assert torch.allclose(variant.predict(x), oracle.eval()(x), atol=1e-6)


def test_hessian_takes_the_squares_of_every_sample():
    build = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)))
    variant = pruned(build, Prune(0.5, importance="hessian", samples=20))
    whole, _, columns = gradients(build, 20, 1)
    first, _, last, _ = (column.square().mean(0) for column in columns)
    with torch.no_grad():
        importance = [(whole[1].weight.square() * first).sum(1), (whole[3].weight.square() * last).sum(0)]
    kept = torch.stack(importance).mean(0).argsort(descending=True)[:8].sort().values
    assert torch.equal(variant.module[1].weight, whole[1].weight[kept])


@pytest.mark.parametrize("kind", ["lamp", "bn_scale", "random"])
def test_every_other_importance_halves_the_widths_too(kind):
    assert pruned(seeded(Plain), Prune(0.5, importance=kind)).module.conv1.out_channels == 16


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("of", ["macs", "params"])
def test_a_budget_is_met_as_closely_as_whole_channels_allow(of, scope):
    variant = pruned(seeded(Plain), Prune(0.6, of=of, round_to=1, scope=scope))
    report = variant.reports[0]
    before, after = (getattr(report, f"{of}_{word}") for word in ("before", "after"))
    assert 0.33 < after / before <= 0.4


def test_a_budget_that_no_width_meets_is_refused():
    with pytest.raises(ConfigError, match="cannot be met"):
        pruned(seeded(Plain), Prune(0.95, of="params", round_to=8))


def test_layers_can_have_ratios_of_their_own():
    variant = pruned(seeded(Plain), Prune(0.5, ratios=("conv1=0.75", "st*=0")))
    assert (variant.module.stem.out_channels, variant.module.conv1.out_channels) == (16, 8)
    with pytest.raises(ConfigError, match="Did you mean 'conv1'"):
        pruned(seeded(Plain), Prune(0.5, ratios=("conv_1=0.5",)))


@pytest.mark.parametrize("entry", ["conv1", "conv1=", "=0.5", "conv1=1.0", "conv1=-0.1", "conv1=nan"])
def test_a_ratio_that_is_none_is_refused(entry):
    with pytest.raises(ConfigError, match="name=ratio"):
        Prune(0.5, ratios=(entry,))


@pytest.mark.parametrize("scope", ["local", "global"])
def test_rounds_end_at_the_widths_of_one_shot(scope):
    once = pruned(seeded(Plain), Prune(0.5, scope=scope, round_to=1))
    often = pruned(seeded(Plain), Prune(0.5, scope=scope, round_to=1, rounds=3, schedule="cubic"))
    total = [v.module.stem.out_channels + v.module.conv1.out_channels for v in (once, often)]
    assert total[0] == pytest.approx(total[1], abs=2)
    assert total[0] == 24


def test_training_between_rounds_is_counted_and_changes_the_weights():
    still = pruned(seeded(Plain), Prune(0.5, rounds=2))
    moved = pruned(seeded(Plain), Prune(0.5, rounds=2, recover_epochs=1.0))
    assert (still.reports[0].epochs_done, moved.reports[0].epochs_done) == (0.0, 1.0)
    assert moved.module.conv1.out_channels == still.module.conv1.out_channels == 16
    assert not torch.allclose(moved.predict(images()[0]), still.predict(images()[0]), atol=1e-3)


def test_a_type_of_layer_can_be_excluded():
    variant = pruned(seeded(TinyViT), Prune(0.5, exclude=("Conv2d",)))
    assert variant.module.fc1.out_features == 16
    with pytest.raises(CoverageError):
        pruned(seeded(Plain), Prune(0.5, exclude=("Conv2d",)))
