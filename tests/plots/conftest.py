"""Rows of a study that went well."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from paths import SUPPORT

MAKE_ROWS = runpy.run_path(str(SUPPORT / "rows.py"))["make_rows"]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Return 54 complete rows: 6 recipes x 3 backends x 3 batch sizes."""
    return MAKE_ROWS()
