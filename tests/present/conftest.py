"""Rows as a study would give them."""

from typing import Any

import pytest
from rows import make_rows

from workbench.study.results.relative_latency import with_relative_latency


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Return 54 complete rows: 6 recipes x 3 backends x 3 batch sizes."""
    return with_relative_latency(make_rows())
