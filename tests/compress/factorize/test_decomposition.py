"""The ways to cut a weight, against numpy: the layers that come out, what they keep and what they cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from workbench.compress.factorize.candidates import find_candidates
from workbench.compress.factorize.config import FACTORIZE_TYPES
from workbench.compress.factorize.decomposition import decompose
from workbench.compress.model_ops import count_macs, count_params
from workbench.compress.steps import Factorize


class Alone(nn.Module):
    """A model of one layer, which keeps a name of its own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def candidate_of(layer, x, conv="auto"):
    (candidate,), _ = find_candidates(Factorize(types=FACTORIZE_TYPES, conv=conv), Alone(layer), x)
    return candidate


def run(module, x):
    with torch.no_grad():
        return module(x)


def truncated(matrix, rank):
    u, s, v = np.linalg.svd(np.asarray(matrix, dtype=np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def with_weight(layer, weight):
    """Return a copy of ``layer`` with another weight: what the split layers must compute."""
    args = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    oracle = type(layer)(*args, groups=layer.groups, padding_mode=layer.padding_mode)
    oracle.load_state_dict({"weight": torch.from_numpy(weight).float(), "bias": layer.bias})
    return oracle


CONVS = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "padding": "same"},
    {"padding": (2, 1), "padding_mode": "reflect", "stride": (1, 2)},
]


def test_two_linears_are_the_best_approximation():
    torch.manual_seed(0)
    layer = nn.Linear(12, 7)
    first, second = decompose(candidate_of(layer, torch.randn(2, 12)), "svd").make((3,))
    product = (second.weight @ first.weight).detach().numpy()
    np.testing.assert_allclose(product, truncated(layer.weight.detach(), 3), atol=1e-6)
    assert torch.equal(second.bias, layer.bias)
    assert first.bias is None


@pytest.mark.parametrize("options", CONVS)
def test_channel_is_the_convolution_with_a_truncated_weight(options):
    torch.manual_seed(1)
    layer, x = nn.Conv2d(5, 8, 3, **options), torch.randn(2, 5, 9, 10)
    weight = truncated(layer.weight.detach().flatten(1), 4).reshape(layer.weight.shape)
    torch.testing.assert_close(
        run(decompose(candidate_of(layer, x), "channel").make((4,)), x), run(with_weight(layer, weight), x)
    )


@pytest.mark.parametrize("options", CONVS)
def test_spatial_is_the_convolution_with_its_axes_truncated(options):
    torch.manual_seed(2)
    layer, x = nn.Conv2d(5, 8, (3, 5), **options), torch.randn(2, 5, 11, 12)
    matrix = layer.weight.detach().numpy().transpose(1, 2, 0, 3).reshape(5 * 3, 8 * 5)
    weight = truncated(matrix, 6).reshape(5, 3, 8, 5).transpose(2, 0, 1, 3).copy()
    new = decompose(candidate_of(layer, x), "spatial").make((6,))
    assert [m.kernel_size for m in new] == [(3, 1), (1, 5)]
    torch.testing.assert_close(run(new, x), run(with_weight(layer, weight), x))


@pytest.mark.parametrize("options", CONVS)
def test_tucker2_is_the_convolution_projected_in_both_modes(options):
    torch.manual_seed(3)
    layer, x = nn.Conv2d(6, 8, 3, **options), torch.randn(2, 6, 9, 10)
    weight = layer.weight.detach().double().numpy()
    out = np.linalg.svd(weight.reshape(8, -1))[0][:, :4]
    into = np.linalg.svd(weight.transpose(1, 0, 2, 3).reshape(6, -1))[0][:, :3]
    projected = np.einsum("oikl,oq,ip,rq,sp->rskl", weight, out, into, out, into)
    decomposition = decompose(candidate_of(layer, x), "tucker2")
    new = decomposition.make((3, 4))
    assert [m.kernel_size for m in new] == [(1, 1), (3, 3), (1, 1)]
    torch.testing.assert_close(run(new, x), run(with_weight(layer, projected), x))
    kept = decomposition.table().with_ranks((3, 4)).kept
    assert kept == pytest.approx((projected**2).sum() / (weight**2).sum())


def test_groups_are_cut_each_for_itself():
    torch.manual_seed(4)
    layer, x = nn.Conv2d(8, 12, 3, groups=4), torch.randn(2, 8, 6, 6)
    parts = [truncated(part.flatten(1), 2).reshape(part.shape) for part in layer.weight.detach().split(3)]
    new = decompose(candidate_of(layer, x), "channel").make((2,))
    torch.testing.assert_close(run(new, x), run(with_weight(layer, np.concatenate(parts)), x))


def test_an_embedding_becomes_a_table_and_a_linear():
    torch.manual_seed(5)
    layer, x = nn.Embedding(50, 12, padding_idx=0), torch.arange(10).reshape(2, 5)
    decomposition = decompose(candidate_of(layer, x), "svd")
    new = decomposition.make((4,))
    table = torch.from_numpy(truncated(layer.weight.detach(), 4)).float()
    torch.testing.assert_close(run(new, x), table[x])
    assert new[0].padding_idx == 0
    assert run(new, x)[0, 0].abs().max() < 1e-6
    choice = decomposition.table().with_ranks((4,))
    assert (choice.params, choice.macs) == (4 * 62, 5 * 4 * 12)


def test_the_linear_of_transformers_is_cut_too():
    why = "transformers is no dependency: pip install transformers"
    utils = pytest.importorskip("transformers.pytorch_utils", reason=why)

    torch.manual_seed(6)
    layer, x = utils.Conv1D(20, 12), torch.randn(3, 4, 12)
    torch.nn.init.normal_(layer.bias)
    new = decompose(candidate_of(layer, x), "svd").make((12,))
    torch.testing.assert_close(run(new, x), run(layer, x))


@st.composite
def convolutions(draw):
    """Return a Conv1d or Conv2d with few channels, in every combination that torch takes, and inputs for it."""
    axes = draw(st.sampled_from([1, 2]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    into, out = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))
    kernel = tuple(draw(st.lists(st.integers(1, 4), min_size=axes, max_size=axes)))
    dilation = tuple(draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes)))
    same = draw(st.booleans())
    stride = (1,) * axes if same else tuple(draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes)))
    padding = "same" if same else tuple(draw(st.lists(st.integers(0, 2), min_size=axes, max_size=axes)))
    mode = draw(st.sampled_from(["zeros", "replicate", "circular"]))
    torch.manual_seed(draw(st.integers(0, 99)))
    make = nn.Conv1d if axes == 1 else nn.Conv2d
    layer = make(into, out, kernel, stride, padding, dilation, groups, draw(st.booleans()), mode)
    return layer, torch.randn(2, into, *((9, 8)[:axes]))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_at_full_rank_every_cut_gives_the_same_outputs_and_costs_what_is_counted(drawn):
    layer, x = drawn
    candidates, reasons = find_candidates(Factorize(conv="auto"), Alone(layer), x)
    if not candidates:
        assert "depthwise" in reasons["layer"]
        return
    (candidate,) = candidates
    assert candidate.params == layer.weight.numel()
    assert candidate.macs == count_macs(layer, x)
    for method in candidate.methods("auto"):
        decomposition = decompose(candidate, method)
        new = decomposition.make(decomposition.full)
        torch.testing.assert_close(run(new, x), run(layer, x), rtol=1e-4, atol=1e-5)
        choice = decomposition.table().with_ranks(decomposition.full)
        assert choice.kept == pytest.approx(1)
        assert choice.params == count_params(new) - (layer.out_channels if layer.bias is not None else 0)
        assert choice.macs == count_macs(new, x)


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.floats(0.2, 0.9))
def test_what_a_cut_keeps_is_the_energy_of_the_weight_that_it_stands_for(drawn, ratio):
    layer, _ = drawn
    # a unit impulse at every input shows the whole weight
    plain = type(layer)(layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups, bias=False)
    x = torch.zeros(layer.in_channels, layer.in_channels, *(2 * k - 1 for k in layer.kernel_size))
    for channel in range(layer.in_channels):
        x[(channel, channel, *(k - 1 for k in layer.kernel_size))] = 1
    candidates, _ = find_candidates(Factorize(conv="auto"), Alone(plain), x)
    for candidate in candidates:
        for method in candidate.methods("auto"):
            decomposition = decompose(candidate, method)
            ranks = [max(1, round(ratio * full)) for full in decomposition.full]
            lost = (run(plain, x) - run(decomposition.make(ranks), x)).square().sum() / run(plain, x).square().sum()
            assert 1 - decomposition.table().with_ranks(ranks).kept == pytest.approx(float(lost), abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_a_linear_at_full_rank_gives_the_same_outputs(into, out, bias, seed):
    torch.manual_seed(seed)
    layer, x = nn.Linear(into, out, bias=bias), torch.randn(3, 4, into)
    candidate = candidate_of(layer, x)
    decomposition = decompose(candidate, "svd")
    torch.testing.assert_close(run(decomposition.make(decomposition.full), x), run(layer, x), rtol=1e-4, atol=1e-5)
    assert candidate.macs == count_macs(layer, x)
    assert decomposition.table().with_ranks(decomposition.full).macs == count_macs(
        decomposition.make(decomposition.full), x
    )
