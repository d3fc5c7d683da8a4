"""Rows of a study that went well."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.rows import make_rows


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Return 54 complete rows: 6 recipes x 3 backends x 3 batch sizes."""
    return make_rows()
