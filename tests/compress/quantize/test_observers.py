"""Ranges: numpy and torch are the oracles, over all values seen and not over the observers' histograms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from workbench.compress.quantize.observers import (
    RANGES,
    GroupObserver,
    MeanSquarePerChannelObserver,
    group_length,
    least_square_range,
    rounded,
    scale_and_zero,
)

UNSIGNED = {"dtype": torch.uint8, "quant_min": 0, "quant_max": 255, "qscheme": torch.per_tensor_affine}


def seen(name: str, batches: list[torch.Tensor], **options: object) -> tuple[float, int]:
    found = RANGES[name](**UNSIGNED, **options)
    for batch in batches:
        found(batch)
    scale, zero = found.calculate_qparams()
    return float(scale), int(zero)


def error_by_numpy(values: np.ndarray, scale: float, zero: int) -> float:
    back = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
    return float(np.mean((back - values) ** 2))


def heavy_tailed(n: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, generator=generator) ** 3


@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9, 100.0])
def test_the_percentile_is_that_of_numpy(percent: float) -> None:
    values = heavy_tailed(200_000)  # so many that the tails are no matter of single values
    scale, zero = seen("percentile", [values], percentile=percent)
    low, high = np.percentile(values.numpy(), [(100 - percent) / 2, (100 + percent) / 2])
    width = float(values.max() - values.min()) / 2048
    assert -zero * scale == pytest.approx(low, abs=2 * width + scale)
    assert (255 - zero) * scale == pytest.approx(high, abs=2 * width + scale)


def test_values_in_several_batches_count_alike() -> None:
    values = heavy_tailed()
    whole, parts = (
        seen("percentile", [values], percentile=99.0),
        seen("percentile", list(values.chunk(5)), percentile=99.0),
    )
    assert parts[0] == pytest.approx(whole[0], rel=0.05)


@pytest.mark.parametrize("values", [heavy_tailed(), heavy_tailed().relu()], ids=["signed", "after relu"])
def test_the_least_square_range_is_near_the_best_of_a_search_over_all_values(values: torch.Tensor) -> None:
    array = values.double().numpy()
    low, high = min(array.min(), 0.0), max(array.max(), 0.0)
    shares = np.linspace(0.1, 1.0, 25)
    best = np.inf
    for down in shares if low < 0 else [1.0]:
        for up in shares:
            scale = (high * up - low * down) / 255
            best = min(best, error_by_numpy(array, scale, int(np.clip(np.rint(-low * down / scale), 0, 255))))
    mine = error_by_numpy(array, *seen("mse", [values]))
    assert mine <= 1.1 * best
    assert mine <= 1.001 * error_by_numpy(array, *seen("minmax", [values]))


def test_a_single_far_value_is_clipped_where_that_helps_all_others() -> None:
    values = torch.cat([torch.linspace(-1, 1, 1_000_000), torch.tensor([3.0])])
    array = values.double().numpy()
    assert error_by_numpy(array, *seen("mse", [values])) < 0.6 * error_by_numpy(array, *seen("minmax", [values]))


@pytest.mark.parametrize("name", sorted(RANGES))
def test_a_centered_range_has_its_zero_in_the_middle_or_at_the_end(name: str) -> None:
    values = torch.cat([torch.linspace(-1, 0, 500), torch.linspace(0, 3, 500)])
    scale, zero = seen(name, [values], centered=True)
    assert zero in (127, 128)
    assert 255 * scale == pytest.approx(6, rel=0.1)
    assert seen(name, [values.abs()], centered=True)[1] == 0


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 40),
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
    spread=st.floats(0.01, 100),
    shift=st.floats(-3, 3),
    seed=st.integers(0, 99),
)
def test_rounding_is_that_of_torch(
    rows: int, columns: int, bits: int, symmetric: bool, spread: float, shift: float, seed: int
) -> None:
    x = (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) + shift) * spread
    top = 2 ** (bits - 1) - 1
    levels = (-top, top) if symmetric else (0, 2 * top + 1)
    scale, zero = scale_and_zero(x.amin(1), x.amax(1), levels, symmetric=symmetric)
    mine = rounded(x, scale[:, None], zero[:, None], levels)
    oracle = torch.fake_quantize_per_channel_affine(x, scale, zero.to(torch.int32), 0, *levels)
    # torch multiplies by 1 / scale: a value on the edge between two levels may fall to the other side
    assert float((mine - oracle).abs().max()) <= float(scale.max()) * 1.01
    assert float(((mine - oracle).abs() > 1e-4 * scale[:, None]).float().mean()) <= 0.1
    assert bool((rounded(mine, scale[:, None], zero[:, None], levels) - mine).abs().max() <= 1e-5 * scale.max())
    assert not rounded(torch.zeros(rows, 1), scale[:, None], zero[:, None], levels).any()


def test_weights_shrink_only_where_that_makes_the_error_less() -> None:
    weight = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    weight[0, 0, 0, 0] = 40.0
    options = {"dtype": torch.int8, "quant_min": -7, "quant_max": 7, "qscheme": torch.per_channel_symmetric}
    found = MeanSquarePerChannelObserver(**options, ch_axis=0)
    found(weight)
    scale, _ = found.calculate_qparams()
    array = weight.flatten(1).double().numpy()
    for row, chosen in zip(array, scale.double().numpy(), strict=True):
        whole = np.abs(row).max() / 7
        tried = [np.mean((np.clip(np.rint(row / s), -7, 7) * s - row) ** 2) for s in whole * np.linspace(0.3, 1, 36)]
        mine = np.mean((np.clip(np.rint(row / chosen), -7, 7) * chosen - row) ** 2)
        assert mine == pytest.approx(min(tried), rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    out=st.integers(1, 4),
    groups=st.integers(1, 3),
    rest=st.sampled_from([0, 5]),
    symmetric=st.booleans(),
    seed=st.integers(0, 99),
)
def test_groups_round_as_worked_out_by_hand(out: int, groups: int, rest: int, symmetric: bool, seed: int) -> None:
    size = 16
    weight = torch.randn(out, groups * size + rest, generator=torch.Generator().manual_seed(seed))
    kind = torch.per_channel_symmetric if symmetric else torch.per_channel_affine
    low, high = (-7, 7) if symmetric else (0, 15)
    found = GroupObserver(
        dtype=torch.int8, quant_min=low, quant_max=high, qscheme=kind, group_size=size, least_square=False
    )
    found(weight)
    scale, zero = (part.double().numpy() for part in found.calculate_qparams())
    length = size if rest == 0 else weight.shape[1]
    assert group_length(weight.shape[1], size) == length
    rows = weight.double().numpy().reshape(-1, length)
    assert scale.shape == (len(rows),)
    if symmetric:
        np.testing.assert_allclose(scale, np.abs(rows).max(1) / 7, rtol=1e-5)
        assert not zero.any()
    else:
        lows, highs = np.minimum(rows.min(1), 0), np.maximum(rows.max(1), 0)
        np.testing.assert_allclose(scale, (highs - lows) / 15, rtol=1e-5)
        np.testing.assert_allclose(zero, np.clip(np.rint(-lows / scale), 0, 15))


def test_least_squares_never_lose_to_the_whole_range() -> None:
    rows = heavy_tailed(320).reshape(10, 32)
    for symmetric in (True, False):
        levels = (-7, 7) if symmetric else (0, 15)
        low, high = least_square_range(rows, levels, symmetric=symmetric)
        errors = []
        for a, b in ((low, high), (rows.amin(1), rows.amax(1))):
            scale, zero = scale_and_zero(a, b, levels, symmetric=symmetric)
            errors.append((rounded(rows, scale[:, None], zero[:, None], levels) - rows).square().mean(1))
        assert bool((errors[0] <= errors[1]).all())
        assert float(errors[0].mean()) < 0.97 * float(errors[1].mean())
