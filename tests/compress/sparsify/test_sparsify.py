"""Zero connections: which ones, against numpy and counts by hand; and that they stay zero whatever trains after."""

from __future__ import annotations

import io
import itertools
import re
import zipfile

import numpy as np
import pytest
import torch
from compress_models import TinyViT, images, seeded, task_of
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from workbench.compress import Distill, Prune, Quantize, Recipe, Recover, Sparsify
from workbench.compress.sparsify.blocks import blocks_of, keep_best, keep_of_each, pattern_blocks
from workbench.compress.training.optimizer_hooks import optimizer_step_hooks
from workbench.core.errors import BackendUnavailable, ConfigError, CoverageError


def net():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, (3, 2), padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(24, 16, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


NAMES = ("0", "3", "5", "9", "11")


def sparse(*steps, build=net, **options):
    x, y = images()
    return Recipe(*steps).apply(task_of(seeded(build), x, y, **options))


def arrays(module):
    return {name: module.get_submodule(name).weight.detach().numpy() for name in NAMES}


def layers(variant, index=-1):
    return {layer.name: layer for layer in variant.reports[index].layers}


def zeros(module):
    return {name: weight == 0 for name, weight in arrays(module).items()}


def test_local_magnitude_is_what_numpy_sorts_out():
    found = arrays(sparse(Sparsify(0.6)).module)
    for name, weight in arrays(seeded(net)()).items():
        gone = round(0.6 * weight.size)
        limit = np.sort(np.abs(weight), axis=None)[gone - 1]
        assert np.array_equal(found[name], np.where(np.abs(weight) <= limit, 0, weight)), name


def test_global_magnitude_is_what_numpy_sorts_out():
    found = arrays(sparse(Sparsify(0.6, scope="global")).module)
    weights = arrays(seeded(net)())
    ranked = np.sort(np.abs(np.concatenate([weight.ravel() for weight in weights.values()])))
    limit = ranked[int(0.6 * ranked.size) - 1]
    assert len({(found[name] == 0).mean() for name in NAMES}) > 1
    for name, weight in weights.items():
        assert np.array_equal(found[name], np.where(np.abs(weight) <= limit, 0, weight)), name


def grouped(weight, granularity):
    """Return the weight as [groups, size] by its shape alone."""
    out, into, *kernel = weight.shape
    if granularity == "filter":
        return weight.reshape(out, -1)
    if granularity == "kernel":
        return weight.reshape(out * into, -1)
    if kernel and kernel[-1] > 1:
        return weight.reshape(-1, kernel[-1])
    return np.moveaxis(weight, 1, -1).reshape(-1, 4)


@pytest.mark.parametrize("granularity", ["vector", "kernel", "filter"])
def test_what_goes_together_goes_whole_and_the_least_first(granularity):
    variant = sparse(Sparsify(0.5, granularity=granularity))
    found, original, report = arrays(variant.module), arrays(seeded(net)()), layers(variant)
    for name in NAMES:
        if not report[name].touched:
            assert np.array_equal(found[name], original[name])
            continue
        blocks, before = grouped(found[name], granularity), np.abs(grouped(original[name], granularity)).mean(1)
        gone = (blocks == 0).all(1)
        assert np.array_equal(gone, (blocks == 0).any(1))
        assert gone.sum() == round(0.5 * len(blocks))
        assert before[gone].max() <= before[~gone].min()
    refused = [name for name in NAMES if not report[name].touched]
    assert refused == {"vector": [], "kernel": ["9", "11"], "filter": ["11"]}[granularity]
    if granularity == "kernel":
        assert "has no kernels" in report["9"].reason


def test_two_of_every_four_inputs_stay():
    variant = sparse(Sparsify(pattern="2:4"))
    found, original, report = arrays(variant.module), arrays(seeded(net)()), layers(variant)
    assert report["0"].reason == "its 1 inputs are not a multiple of 4"
    for name in NAMES[1:]:
        fours, before = (np.moveaxis(w[name], 1, -1).reshape(-1, 4) for w in (found, original))
        assert ((fours == 0).sum(1) == 2).all()
        for now, then in zip(fours, np.abs(before), strict=True):
            assert set(np.flatnonzero(now)) == set(np.argsort(then)[2:])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([(), (3,), (1, 1), (2, 3)]),
    st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 8)]),
    st.integers(0, 9),
)
def test_an_n_to_m_mask_keeps_n_of_every_m(out, groups, kernel, pattern, seed):
    kept, size = pattern
    shape = (out, groups * size, *kernel)
    layer = nn.Linear(1, 1) if not kernel else (nn.Conv1d if len(kernel) == 1 else nn.Conv2d)(1, 1, 1)
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    layer.weight = nn.Parameter(scores)
    mask = keep_of_each(scores, scores, pattern_blocks(layer, size), kept)
    assert mask.shape == shape
    assert bool((mask.movedim(1, -1).reshape(-1, size).sum(1) == kept).all())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 4)), min_size=1, max_size=4),
    st.sampled_from(["weight", "vector", "kernel", "filter"]),
    st.floats(0.01, 0.99),
    st.booleans(),
)
def test_masks_take_the_share_asked_for_as_nearly_as_blocks_allow(shapes, granularity, ratio, together):
    generator = torch.Generator().manual_seed(len(shapes))
    weights, blocks = {}, {}
    for place, (out, into) in enumerate(shapes):
        layer = nn.Conv2d(into, out, 3)
        weights[str(place)] = torch.rand(layer.weight.shape, generator=generator) + 0.1
        blocks[str(place)] = blocks_of(layer, granularity)
    masks = keep_best(weights, weights, blocks, ratio, together=together)
    total = gone = 0
    for name, mask in masks.items():
        parts = blocks[name].view(mask)
        assert bool((parts.all(1) | ~parts.any(1)).all()) and bool(mask.any())
        total, gone = total + mask.numel(), gone + int((~mask).sum())
    largest = max(block.size for block in blocks.values())
    slack = largest * (1 if together else len(masks)) + (total * 0.02 + largest * len(masks) if together else 0)
    assert gone <= ratio * total + largest * len(masks)
    assert gone >= ratio * total - slack - largest


def test_gradient_takes_weight_times_mean_gradient():
    x, y = images()
    task = task_of(seeded(net), x, y)
    module = seeded(net)()
    chosen = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0))[:32]
    part = task.train.take(chosen)
    F.cross_entropy(module(part.inputs), part.targets).backward()
    found = arrays(sparse(Sparsify(0.5, criterion="gradient", samples=32)).module)
    for name in NAMES:
        weight = module.get_submodule(name).weight
        score = (weight * weight.grad).abs().detach().flatten()
        gone = score.argsort(stable=True)[: round(0.5 * len(score))]
        assert set(np.flatnonzero(found[name] == 0)) == set(gone.tolist()), name


def test_movement_adds_up_minus_weight_times_gradient():
    """By hand: S = -sum over the steps of W * dL/dW (arXiv 2005.07683), the least of it leaves."""
    scores = None

    def watch(optimizer):
        nonlocal scores
        (weight,) = [p for group in optimizer.param_groups for p in group["params"] if p.ndim == 2]
        now = -(weight * weight.grad)
        scores = now if scores is None else scores + now

    with optimizer_step_hooks(before=watch):
        variant = sparse(
            Sparsify(0.5, criterion="movement", recover_epochs=2.0, rounds=1),
            build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)),
        )
    assert variant.reports[0].epochs_done == 2.0
    gone = scores.flatten().argsort(stable=True)[:128]
    assert set((variant.module[1].weight == 0).flatten().nonzero().flatten().tolist()) == set(gone.tolist())


@pytest.mark.parametrize("schedule", ["even", "cubic", "one_cycle"])
@pytest.mark.parametrize("criterion", ["magnitude", "movement", "gradient"])
def test_rounds_with_training_end_at_the_share(schedule, criterion):
    step = Sparsify(0.75, rounds=3, schedule=schedule, criterion=criterion, recover_epochs=1.0)
    variant = sparse(step)
    for name, zero in zeros(variant.module).items():
        assert zero.sum() == round(0.75 * zero.size), name
    assert variant.reports[0].epochs_done == (3.0 if criterion == "movement" else 2.0)


def test_zeros_of_an_earlier_round_stay():
    seen = []

    def after(optimizer):
        seen.append({id(p): p == 0 for group in optimizer.param_groups for p in group["params"] if p.ndim > 1})

    with optimizer_step_hooks(after=after):
        sparse(Sparsify(0.8, rounds=4, recover_epochs=1.0))
    shares = [sum(int(zero.sum()) for zero in step.values()) for step in seen]
    assert shares == sorted(shares) and shares[0] > 0
    for early, late in itertools.pairwise(seen):
        assert all(bool((late[key] | ~zero).all()) for key, zero in early.items())


@pytest.mark.parametrize("step", [Recover(epochs=3.0), Distill(epochs=3.0)])
def test_a_later_training_keeps_the_zeros_and_moves_the_rest(step):
    alone, trained = sparse(Sparsify(0.6)), sparse(Sparsify(0.6), step)
    for name, zero in zeros(alone.module).items():
        assert np.array_equal(zeros(trained.module)[name], zero), name
        assert not np.array_equal(arrays(trained.module)[name], arrays(alone.module)[name])
    note = "Zeros of Sparsify held in training"
    assert any(note in text for text in trained.reports[1].notes)
    assert type(trained.module[0]) is nn.Conv2d
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in trained.module.modules())
    assert {name for name, _ in trained.module.named_parameters()} == {name for name, _ in net().named_parameters()}


def test_training_without_sparsify_holds_nothing():
    variant = sparse(Prune(0.5), Recover(epochs=1.0))
    assert not any("held" in note for note in variant.reports[1].notes)


def test_dense_sparse_dense_lets_the_zeros_go():
    variant = sparse(Sparsify(0.6, recover_epochs=2.0, dense_epochs=2.0), Recover(epochs=1.0))
    # a few weights have no gradient (their unit never fires), and stay where they were let go
    assert sum(zero.sum() for zero in zeros(variant.module).values()) < 0.1 * variant.params
    assert variant.reports[0].epochs_done == 4.0
    assert "trained again" in variant.reports[0].notes[0]
    assert variant.reports[0].label == "dense-sparse-dense"


def integers(module):
    """Return the int8 weights of a quantized graph by size."""
    tensors = [*module.buffers(), *module.parameters()]
    return {t.numel(): t for t in tensors if t.dtype == torch.int8}


@pytest.mark.parametrize("step", [Quantize(), Quantize(qat_epochs=8.0, learning_rate=0.05, distill=False)])
def test_zeros_survive_symmetric_quantization(step):
    alone, variant = sparse(Sparsify(0.6)), sparse(Sparsify(0.6), step)
    found = integers(variant.module)
    for name, zero in zeros(alone.module).items():
        stored = found[zero.size].detach().numpy().reshape(zero.shape)
        assert (stored[zero] == 0).all(), name


def test_the_report_counts_what_is_not_zero_and_what_a_zip_file_takes():
    variant = sparse(Sparsify(0.9))
    report = variant.reports[0]
    assert report.params_after == report.params_before and report.macs_after == report.macs_before
    left = sum(int(p.count_nonzero()) for p in variant.module.parameters())
    assert f"{left:,} of {variant.params:,} parameters are not zero" in report.notes[0]
    sizes = []
    for module in (variant.module, seeded(net)()):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name, parameter in module.named_parameters():
                archive.writestr(name, parameter.detach().numpy().tobytes())
            sizes.append(sum(entry.compress_size for entry in archive.infolist()))
    assert sizes[0] < 0.5 * sizes[1]
    said = [float(word) for word in re.findall(r"([\d.e-]+) MiB", report.notes[1])]
    assert said == pytest.approx([size / 2**20 for size in sizes], rel=0.006)
    assert "ONNX Runtime" in report.notes[2] and "OpenVINO" in report.notes[2]
    assert "torch.compile" not in report.notes[2]


def test_what_is_left_alone_says_why():
    variant = sparse(Sparsify(0.5, include=("3", "Linear"), exclude=("11",)))
    found = layers(variant)
    assert [name for name in NAMES if found[name].touched] == ["3", "9"]
    assert found["0"].reason == "not among those to include" and found["11"].reason == "excluded by name"
    assert "of 128 weights are zero (50.0%)" in found["9"].reason


def test_layers_that_are_no_plain_weights_are_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(64, 8))  # made plain when the task is loaded
            self.tied1, self.tied2 = nn.Linear(8, 8), nn.Linear(8, 8)
            self.tied2.weight = self.tied1.weight
            self.up = nn.ConvTranspose1d(8, 4, 1)

        def forward(self, x):
            x = self.tied2(F.relu(self.tied1(F.relu(self.normed(x.flatten(1))))))
            return self.up(x[..., None])[..., 0]

    found = layers(sparse(Sparsify(0.5), build=Odd))
    assert found["tied1"].touched
    assert found["tied2"].reason == "shares its weight with tied1"
    assert found["normed"].touched
    assert "ConvTranspose1d is not supported" in found["up"].reason


def test_a_pattern_that_fits_nowhere_is_an_error():
    with pytest.raises(CoverageError, match="not a multiple of 7"):
        sparse(Sparsify(pattern="3:7"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sparsify(pattern="4:2"), "N:M"),
        (lambda: Sparsify(pattern="half"), "N:M"),
        (lambda: Sparsify(pattern="2:4", granularity="filter"), "requires granularity='weight'"),
        (lambda: Sparsify(pattern="2:4", scope="global"), "scope='local'"),
        (lambda: Sparsify(criterion="movement"), "requires recover_epochs above 0"),
        (lambda: Sparsify(dense_epochs=1.0), "requires recover_epochs above 0"),
        (lambda: Sparsify(exclude=(len,)), "'len' is a function"),
    ],
)
def test_options_that_do_not_go_together_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_transformer_gets_zeros_in_every_linear():
    variant = sparse(Sparsify(pattern="2:4"), build=TinyViT)
    found = layers(variant)
    assert all(found[name].touched for name in ("qkv", "proj", "fc1", "fc2", "head"))
    assert "semi_structured" in variant.reports[0].notes[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this says what happens without a GPU, and there is one")
def test_two_to_four_on_a_gpu_is_refused_without_one():
    from workbench.compress.sparsify.semi_structured import semi_structured

    with pytest.raises(BackendUnavailable, match=r"compute capability 8\.0.*no GPU"):
        semi_structured(net())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="2:4 products need a CUDA GPU, and torch sees none")
def test_two_to_four_on_a_gpu_answers_as_the_weights_with_zeros():
    from workbench.compress.sparsify.semi_structured import semi_structured

    def wide():
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4)
        )

    variant = sparse(Sparsify(pattern="2:4"), build=wide)
    fast, reports = semi_structured(variant.module)
    assert [report.name for report in reports if report.touched] == ["1", "3"]
    x = images()[0].cuda().half()
    with torch.no_grad():
        wanted = variant.module.cuda().half()(x)
        assert torch.allclose(fast(x), wanted, atol=2e-2, rtol=2e-2)


def test_which_weights_a_gpu_takes_is_told_by_their_zeros():
    from workbench.compress.sparsify.semi_structured import is_two_of_four

    assert is_two_of_four(torch.tensor([[1.0, 0, 2, 0, 0, 0, 0, 3]]))
    assert not is_two_of_four(torch.tensor([[1.0, 4, 2, 0, 0, 0, 0, 3]]))
    assert not is_two_of_four(torch.zeros(2, 6))


def test_no_filter_of_the_layer_that_answers_is_zeroed():
    variant = sparse(Sparsify(0.5, granularity="filter"))
    found = layers(variant)
    answering = [name for name, layer in found.items() if "constant output" in layer.reason]
    assert answering == [list(found)[-1]]
    assert any(layer.touched for layer in found.values())
    weight = variant.module.get_submodule(answering[0]).weight
    assert (weight.abs().sum(tuple(range(1, weight.ndim))) > 0).all()
    assert layers(sparse(Sparsify(0.5)))[answering[0]].touched
