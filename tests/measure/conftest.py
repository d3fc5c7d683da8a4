"""Profiles with known numbers, and the small net of tests/support as a variant."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from paths import SUPPORT

FIXTURES = SUPPORT


@pytest.fixture(scope="session")
def made() -> dict[str, Any]:
    """Return ``make_profile`` and ``make_peaks``."""
    return runpy.run_path(str(FIXTURES / "profiles.py"))


@pytest.fixture(scope="session")
def tiny():
    """Return the variant of a small trained CNN; its export is made once for all tests."""
    from workbench.compress.variant import Variant
    from workbench.tasks.load import load_task

    return Variant.original(load_task(f"{FIXTURES / 'tiny.py'}:tiny"))


@pytest.fixture(scope="session")
def tiny_int8(tiny):
    """Return the same net in static int8."""
    from workbench.compress.recipe import Recipe
    from workbench.compress.steps import Quantize

    return Recipe(Quantize()).apply(tiny.task)
