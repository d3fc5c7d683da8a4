"""Frames of the results of other rooms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from workbench.core.checks import given
from workbench.core.errors import ConfigError


def require(fits: bool, chart: str, source: str, value: object) -> None:
    """Raise a ConfigError unless ``value`` is what a chart takes: ``source`` describes it."""
    if not fits:
        raise ConfigError(f"{chart} takes {source}; got {given(value)}.")


def attribute_frame(objects: Iterable[Any], columns: Mapping[str, str]) -> pd.DataFrame:
    """Return a frame with a row per object; ``columns`` maps names to attributes."""
    rows = [[getattr(item, attribute) for attribute in columns.values()] for item in objects]
    return pd.DataFrame(rows, columns=list(columns))
