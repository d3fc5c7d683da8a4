"""Rows as a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.study.results.schema import COLUMNS, TrialRow

if TYPE_CHECKING:
    import pandas as pd


def rows_frame(rows: Sequence[TrialRow]) -> pd.DataFrame:
    """Return rows as a frame with every column of a row."""
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS))
