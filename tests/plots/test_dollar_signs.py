"""Dollar signs in names are shown as they are: a pair of them is not read as mathematics."""

from __future__ import annotations

import pytest

from workbench.plots import figure_png, plot_memory, plot_throughput, plot_tradeoff, plot_waterfall


@pytest.mark.parametrize("draw", [plot_tradeoff, plot_throughput, plot_memory, plot_waterfall])
@pytest.mark.parametrize("name", ["$\\frac{", "a$b$c", "$$", "\\$5", "$x_$"])
def test_a_chart_with_a_hostile_name_is_drawn(draw, name, rows):
    hostile = [{**row, "recipe": name if row["recipe"] == "prune+distill+qat" else row["recipe"]} for row in rows]
    assert figure_png(draw(hostile))[:4] == b"\x89PNG"
