"""Rows as a data frame; recipe parameters are columns, as in Optuna's ``trials_dataframe``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.core.config import canonical_json
from workbench.study.results.schema import COLUMNS, TrialRow

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "params_"


def row_params(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of every step of a row's recipe, by column name.

    A step that occurs twice gets a number: ``params_prune_ratio``, ``params_prune_2_ratio``. Values that are not
    scalars are JSON text.

    Examples
    --------
    >>> row_params({"recipe_json": '{"steps":[{"step":"PruneDepth","blocks":2,"exclude":["head"]}]}'})
    {'params_prune_depth_blocks': 2, 'params_prune_depth_exclude': '["head"]'}
    """
    params: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for step in json.loads(row.get("recipe_json") or "{}").get("steps", ()):
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", step["step"]).lower()
        counts[name] = counts.get(name, 0) + 1
        prefix = f"{PREFIX}{name}_" + (f"{counts[name]}_" if counts[name] > 1 else "")
        for option, value in step.items():
            if option != "step":
                params[prefix + option] = canonical_json(value) if isinstance(value, list | dict) else value
    return params


def rows_frame(rows: Sequence[TrialRow]) -> pd.DataFrame:
    """Return rows as a frame: every column of a row, then the recipe parameters; NaN if a row has no such step."""
    import pandas as pd

    params = [row_params(row) for row in rows]
    names = dict.fromkeys(name for one in params for name in one)
    table = [{**row, **one} for row, one in zip(rows, params, strict=True)]
    return pd.DataFrame(table, columns=[*COLUMNS, *names])
