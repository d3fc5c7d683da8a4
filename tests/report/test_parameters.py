"""The parameters cell: read without running it, and given values refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.core.config import from_dict
from workbench.core.errors import ConfigError
from workbench.report.parameters import check_parameters, find_notebook, read_parameters
from workbench.report.settings import ReportSettings

DEFAULTS = {"budget_s": 0, "batch_sizes": [1, 8], "backends": [], "drop": 0.01, "seed": 0, "on": False, "task": "x"}


def test_the_notebook_and_the_settings_have_the_same_parameters() -> None:
    cell = read_parameters(find_notebook("90_tradeoff_report.ipynb"))
    assert from_dict(ReportSettings, cell) == ReportSettings()
    assert set(cell) == set(ReportSettings().to_dict())


@pytest.mark.parametrize(
    ("given", "ready"),
    [
        ({"budget_s": "600"}, 600),
        ({"budget_s": "0.5e3"}, 500.0),
        ({"budget_s": 90.5}, 90.5),
        ({"budget_s": None}, 0),
        ({"batch_sizes": "1,32"}, [1, 32]),
        ({"batch_sizes": "[4, 16]"}, [4, 16]),
        ({"batch_sizes": (2, 3)}, [2, 3]),
        ({"batch_sizes": "64"}, [64]),
        ({"backends": "openvino, onnxruntime"}, ["openvino", "onnxruntime"]),
        ({"backends": "['openvino']"}, ["openvino"]),
        ({"drop": "0.02"}, 0.02),
        ({"drop": 1}, 1),
        ({"seed": "3"}, 3),
        ({"seed": 3.0}, 3),
        ({"on": "true"}, True),
        ({"on": "No"}, False),
        ({"task": "7"}, "7"),
    ],
)
def test_values_are_read_as_the_type_of_the_default(given: dict[str, Any], ready: Any) -> None:
    found = check_parameters(given, DEFAULTS)
    assert list(found.values()) == [ready]
    assert type(next(iter(found.values()))) is type(ready)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("budget_s", "soon", "a whole number"),
        ("batch_sizes", "1,two", "a whole number"),
        ("batch_sizes", 8, "a list"),
        ("seed", "1.5", "a whole number"),
        ("seed", True, "a whole number"),
        ("on", "perhaps", "true or false"),
        ("on", 1, "true or false"),
        ("task", 7, "text"),
        ("drop", "a lot", "a number"),
    ],
)
def test_values_of_another_type_are_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' must be {words}"):
        check_parameters({name: value}, DEFAULTS)


def test_an_unknown_parameter_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown parameter 'budget'. Did you mean 'budget_s'\?"):
        check_parameters({"budget": 3}, DEFAULTS)


def test_an_unknown_notebook_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean '00_quickstart\.ipynb'"):
        find_notebook("00_quickstar.ipynb")


@pytest.mark.parametrize(
    ("source", "words"),
    [("x = 1 + y", "not a literal"), ("import os", "only assign literals"), (None, "no cell tagged")],
)
def test_a_cell_that_is_more_than_literals_is_refused(source: str | None, words: str, tmp_path: Path) -> None:
    cells = [] if source is None else [{"metadata": {"tags": ["parameters"]}, "source": [source]}]
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    with pytest.raises(ConfigError, match=words):
        read_parameters(path)
