"""Rows as a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.study.results.params import row_params
from workbench.study.results.schema import COLUMNS, TrialRow

if TYPE_CHECKING:
    import pandas as pd


def rows_frame(rows: Sequence[TrialRow]) -> pd.DataFrame:
    """Return rows as a frame: every column of a row, then the recipe parameters; NaN if a row has no such step."""
    import pandas as pd

    params = [row_params(row) for row in rows]
    names = dict.fromkeys(name for one in params for name in one)
    table = [{**row, **one} for row, one in zip(rows, params, strict=True)]
    return pd.DataFrame(table, columns=[*COLUMNS, *names])
