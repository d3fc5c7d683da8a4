"""Ways side by side: their data against the variants and numpy, and their words."""

from __future__ import annotations

import numpy as np
import pytest

import workbench as wb
from workbench.plots import (
    compression_methods_data,
    figure_png,
    plot_compression_methods,
    plot_rank_energy,
    rank_energy_data,
)


def test_ways_hold_the_shares_of_their_variants(tiny_task):
    original = wb.Variant.original(tiny_task)
    made = [wb.Recipe(wb.Factorize(ratio=ratio)).apply(tiny_task) for ratio in (0.5, 0.25)]
    frame = compression_methods_data({"by ratio": made, "none": []}, original)
    assert frame["macs_share"].tolist() == sorted(variant.macs / original.macs for variant in made)
    assert frame["quality_drop"].tolist() == [original.quality - frame["quality"][i] for i in range(2)]
    figure = plot_compression_methods({"by ratio": made}, original)
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["by ratio"]
    assert "%" in ax.get_xlabel()
    assert figure_png(figure).startswith(b"\x89PNG")
    assert "No variant to draw" in plot_compression_methods({}, original).axes[0].texts[0].get_text()


def test_energies_of_ranks_are_numpys_singular_values(tiny_task):
    frame = rank_energy_data(tiny_task)
    module = tiny_task.model()
    for layer, rows in frame.groupby("layer"):
        weight = module.get_submodule(layer).weight.detach().numpy()
        squares = np.linalg.svd(weight.reshape(len(weight), -1), compute_uv=False).astype(np.float64) ** 2
        assert rows["energy"].to_numpy() == pytest.approx(
            (np.cumsum(squares) / squares.sum())[rows["rank"] - 1], abs=1e-5
        )
        saved = 1 - rows["rank"] * (len(weight) + weight[0].size) / weight.size
        assert rows["params_share"].to_numpy() == pytest.approx(1 - saved.to_numpy())


@pytest.mark.parametrize("conv", ["channel", "tucker2"])
def test_every_layer_has_a_line(tiny_task, conv):
    ax = plot_rank_energy(tiny_task, conv=conv).axes[0]
    layers = set(rank_energy_data(tiny_task, conv=conv)["layer"])
    assert {text.get_text() for text in ax.get_legend().get_texts()} == layers
