"""A saved variant, file by file, and copies of it that a test may change."""

from __future__ import annotations

import pytest
from artifact_models import make_variant, pruned


@pytest.fixture(scope="session")
def content(tmp_path_factory):
    """Return the bytes of every file of a saved variant."""
    folder = make_variant(pruned()).save(tmp_path_factory.mktemp("whole") / "artifact").folder
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def copy(content, tmp_path):
    """Return the folder of a copy that a test may damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder
