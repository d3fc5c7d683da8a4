"""Compression methods and importances of pruning: their data against the variants and numpy, panels and texts."""

from __future__ import annotations

import numpy as np
import pytest
from paths import SUPPORT

import workbench as wb
from workbench.compress import Prune, Recipe, Recover
from workbench.plots import (
    compression_methods_data,
    figure_png,
    plot_compression_methods,
    plot_pruning,
    plot_rank_energy,
    pruning_data,
    rank_energy_data,
)
from workbench.tasks.load import load_task


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


@pytest.fixture(scope="module")
def variants():
    tiny_task = load_task(f"{SUPPORT / 'tiny.py'}:tiny")
    cache: dict = {}
    cuts = [Prune(ratio, of="macs", importance=name, round_to=1) for name in ("random", "l2") for ratio in (0.6, 0.3)]
    recipes = [Recipe(), *map(Recipe, cuts), *(Recipe(cut, Recover(epochs=0.3)) for cut in cuts)]
    return [recipe.apply(tiny_task, cache=cache) for recipe in recipes]


def test_every_curve_begins_at_the_float_model(variants):
    frame = pruning_data(variants)
    whole = variants[0]
    assert list(frame["importance"].unique()) == ["l2", "random"]
    assert len(frame) == 4 * 3
    for _, line in frame.groupby(["importance", "epochs"]):
        line = line.sort_values("ratio")
        assert list(line["ratio"]) == [0.0, 0.3, 0.6]
        assert line["macs_share"].iloc[0] == 1.0 and line["quality"].iloc[0] == whole.quality
        assert line["macs"].iloc[0] == whole.macs
        assert list(line["macs_share"] * whole.macs) == pytest.approx(list(line["macs"]))
    by_hand = next(v for v in variants if v.recipe == Recipe(Prune(0.6, of="macs", importance="l2", round_to=1)))
    row = frame[(frame["recipe"] == by_hand.recipe.label) & (frame["importance"] == "l2")].iloc[0]
    assert (row["quality"], row["macs"], row["epochs"]) == (by_hand.quality, by_hand.macs, 0.0)


def test_what_was_trained_stands_in_a_panel_of_its_own(variants):
    figure = plot_pruning(variants)
    assert figure_png(figure)[:4] == b"\x89PNG"
    epochs = variants[-1].reports[-1].epochs_done
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["without training", f"epochs: {round(epochs, 2):g}; own scale"]
    for ax in figure.axes:
        words = {note.get_text() for note in ax.texts}
        assert {"l2", "random", "float"} <= words
        assert len([line for line in ax.get_lines() if len(line.get_xdata()) == 3]) == 2
    assert "validation" in figure.axes[0].get_ylabel()
    assert len(plot_pruning(variants[:5]).axes) == 1


def test_no_pruned_variant_is_said(variants):
    assert "give the variants" in plot_pruning(variants[:1]).axes[0].texts[0].get_text().replace("\n", " ")
