"""Recipe parameters are columns of the frame, and axes of a chart."""

from __future__ import annotations

import math

import pytest
from rows import make_rows, small_row

import workbench as wb
from workbench.core.errors import StudyError
from workbench.plots import params_data, plot_params, tradeoff_data
from workbench.study.results.frame import row_params, rows_frame
from workbench.study.results.schema import COLUMNS

RECIPES = [wb.Recipe(name="float"), *wb.sweep(wb.Prune, ratio=[0.1, 0.3, 0.5]), wb.Recipe(wb.Quantize())]


def swept():
    """Return the rows of a sweep at batch size 32, with a quality that falls with the ratio."""
    like = next(row for row in make_rows() if row["batch_size"] == 32)
    return [
        {**like, "recipe": recipe.name or recipe.label, "recipe_id": recipe.recipe_id, "trial_key": recipe.recipe_id,
         "recipe_json": recipe.to_json(), "technique": recipe.technique, "quality": 0.9 - 0.01 * number,
         "baseline": not recipe.steps}
        for number, recipe in enumerate(RECIPES)
    ]  # fmt: skip


def test_every_option_of_every_step_is_a_column():
    frame = rows_frame([small_row(recipe_json=recipe.to_json()) for recipe in RECIPES])
    assert list(frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    ratios = frame["params_prune_ratio"].tolist()
    assert ratios[1:4] == [0.1, 0.3, 0.5] and math.isnan(ratios[0]) and math.isnan(ratios[4])
    assert frame["params_quantize_bits"].tolist()[4] == 8
    assert len(frame[frame["params_prune_ratio"] > 0.2]) == 2
    options = {name.removeprefix("params_prune_") for name in frame.columns if name.startswith("params_prune_")}
    assert options == set(wb.Prune().to_dict())


def test_a_step_that_occurs_twice_is_numbered_and_sequences_are_text():
    steps = '{"steps":[{"step":"Prune","ratio":0.1},{"step":"Recover","epochs":1},{"step":"Prune","exclude":["a"]}]}'
    assert row_params({"recipe_json": steps}) == {
        "params_prune_ratio": 0.1,
        "params_recover_epochs": 1,
        "params_prune_2_exclude": '["a"]',
    }


def test_a_parameter_is_an_axis():
    frame = params_data(swept(), "params_prune_ratio", "quality")
    assert frame["params_prune_ratio"].tolist() == [0.1, 0.3, 0.5]
    assert frame["quality"].tolist() == pytest.approx([0.89, 0.88, 0.87])
    assert "params_prune_ratio" in tradeoff_data(swept()).columns
    (axes,) = plot_params(rows_frame(swept()), "params_prune_ratio", "size_mib").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("params_prune_ratio", "size_mib")
    assert axes.lines[0].get_xdata().tolist() == [0.1, 0.3, 0.5]


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(StudyError, match="Did you mean 'params_prune_ratio'"):
        params_data(swept(), "params_prune_rate")
    assert "complete" in plot_params([], "params_prune_ratio").axes[0].texts[0].get_text()
