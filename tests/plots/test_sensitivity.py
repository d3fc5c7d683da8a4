"""The heat map of sensitivity: its data, its words, and what it says when there is nothing to draw."""

from __future__ import annotations

import math

import pytest
from matplotlib.figure import Figure

from workbench.compress.sensitivity import Cell, Sensitivity
from workbench.compress.steps import Prune
from workbench.core.errors import ConfigError
from workbench.plots import figure_png, plot_sensitivity, sensitivity_data


def table(measure="quality", layers=3):
    cells = [
        Cell(f"layer{i}", "Conv2d", (f"layer{i}",), setting, value, 0.9, 0.9, 0.9)
        for i in range(layers)
        for setting, value in ((0.25, 0.91 if i else 0.0), (0.5, 0.1 * (i + 1)), (0.75, None))
    ]
    return Sensitivity("t", "prune", measure, 0.9, Prune(), tuple(f"layer{i}" for i in range(layers)), tuple(cells))


def test_the_data_are_layers_by_settings():
    wide = sensitivity_data(table())
    assert wide.index.tolist() == ["layer0", "layer1", "layer2"]
    assert wide.columns.tolist() == [0.25, 0.5, 0.75]
    assert wide.loc["layer1", 0.25] == pytest.approx(-0.01)
    assert wide[0.75].isna().all()
    decibels = sensitivity_data(table("sqnr_db"))
    assert decibels.loc["layer0", 0.25] == math.inf
    assert decibels.loc["layer0", 0.5] == pytest.approx(10)


@pytest.mark.parametrize("measure", ["quality", "sqnr_db"])
def test_cells_carry_their_values_and_missing_ones_are_hatched(measure):
    figure = plot_sensitivity(table(measure))
    ax = figure.axes[0]
    words = {text.get_text() for text in ax.texts}
    assert ({"-0.010", "+0.800", "+0.900"} if measure == "quality" else {"10.0", "exact"}) <= words
    assert len(ax.patches) == 3 and all(patch.get_hatch() for patch in ax.patches)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["layer0", "layer1", "layer2"]
    assert "Channels removed" in ax.get_xlabel()
    assert figure_png(figure).startswith(b"\x89PNG")


def test_a_table_of_many_layers_names_some_of_them():
    ax = plot_sensitivity(table(layers=150)).axes[0]
    assert len(ax.get_yticks()) <= 60
    assert not [text for text in ax.texts if text.get_text().startswith("+")]


def test_an_empty_table_says_so_and_anything_else_is_refused():
    empty = plot_sensitivity(table(layers=0))
    assert "No layer that prune can change" in empty.axes[0].texts[0].get_text().replace("\n", " ")
    with pytest.raises(ConfigError, match=r"takes the result of wb\.sensitivity\(\.\.\.\)"):
        sensitivity_data([])
    figure = Figure()
    assert plot_sensitivity(table(), ax=figure.add_subplot()) is figure


def colors(ax):
    """Return the colors of the cells as the chart shows them, [rows, columns, 4]."""
    image = ax.images[0]
    return image.cmap(image.norm(image.get_array().filled(math.nan)))


@pytest.mark.parametrize(("base", "noise", "signal"), [(0.9, 0.001, 0.2), (90.0, 0.1, 20.0)])
def test_noise_stays_pale(base, noise, signal):
    def drawn(*values):
        cells = tuple(Cell(f"l{i}", "Linear", (f"l{i}",), 0.5, base - v, 0.9, 0.9, 0.9) for i, v in enumerate(values))
        return plot_sensitivity(Sensitivity("t", "prune", "quality", base, Prune(), ("l0",), cells)).axes[0]

    quiet, loud = drawn(0.0, noise), drawn(0.0, signal)
    assert quiet.images[0].norm.vmax == pytest.approx(0.005 * max(1.0, base))
    assert loud.images[0].norm.vmax == pytest.approx(signal)
    nothing, a_little, a_lot = colors(quiet)[0, 0], colors(quiet)[1, 0], colors(loud)[1, 0]
    assert abs(a_little - nothing).max() < 0.35 < 0.7 < abs(a_lot - nothing).max()


def test_ratios_that_are_nearly_equal_look_so():
    cells = tuple(Cell(f"l{i}", "Linear", (f"l{i}",), 8, 10 ** -(3 + i / 100), 1, 1, 0.9) for i in range(3))
    ax = plot_sensitivity(Sensitivity("t", "quantize", "sqnr_db", 0.0, Prune(), ("l0",), cells)).axes[0]
    assert ax.images[0].norm.vmax - ax.images[0].norm.vmin == pytest.approx(3.0)


@pytest.mark.parametrize("measure", ["quality", "sqnr_db"])
def test_hatching_is_explained_where_there_is_some(measure):
    ax = plot_sensitivity(table(measure)).axes[0]
    (entry,) = ax.get_legend().get_texts()
    assert "not possible at this setting" in entry.get_text()
    assert ax.get_legend().get_patches()[0].get_hatch()
    cell = Cell("one", "Linear", ("one",), 0.5, 0.5, 0.9, 0.9, 0.9)
    assert (
        plot_sensitivity(Sensitivity("t", "prune", measure, 0.9, Prune(), ("one",), (cell,))).axes[0].get_legend()
        is None
    )
    none = Cell("one", "Linear", ("one",), 0.5, None, 1.0, 1.0, 1.0)
    figure = plot_sensitivity(Sensitivity("t", "prune", measure, 0.9, Prune(), ("one",), (none,)))
    assert figure.axes[0].get_legend() is not None and figure_png(figure)
