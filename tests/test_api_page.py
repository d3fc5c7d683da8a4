"""docs/api.md names everything public, and its code runs."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

import workbench as wb

PAGE = (ROOT / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_every_public_name_has_an_example():
    code = "\n".join(BLOCKS)
    assert [name for name in wb.__all__ if not re.search(rf"\bwb\.{name}\b", code)] == []


@pytest.mark.slow
def test_the_examples_run_in_order(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "api_page"}
    for block in BLOCKS:
        exec(compile(block, "docs/api.md", "exec"), namespace)
    assert namespace["study"].name and namespace["report"].html.is_file()
