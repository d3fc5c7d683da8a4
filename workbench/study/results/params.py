"""Recipe parameters of a row as columns, as in Optuna's ``trials_dataframe``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from workbench.core.config import canonical_json

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
