"""The pruning chart: its table, its panels, its words."""

from __future__ import annotations

import pytest
from paths import SUPPORT

from workbench.compress import Prune, Recipe, Recover
from workbench.plots import figure_png, plot_pruning, pruning_data
from workbench.tasks.load import load_task


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
