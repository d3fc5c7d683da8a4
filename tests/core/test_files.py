"""Files are replaced whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from workbench.core import files
from workbench.core.errors import WorkbenchError
from workbench.core.files import atomic_write, is_disk_full, sha256_file, writable_folder


def test_a_failure_keeps_the_old_content_and_no_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_success_replaces_in_one_step(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "deep" / "a.txt") as temporary:
        temporary.write_bytes(b"new")
    assert sha256_file(tmp_path / "deep" / "a.txt") == hashlib.sha256(b"new").hexdigest()


def test_files_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("x")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644
        (tmp_path / "a.txt").chmod(0o600)
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("y")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(WorkbenchError, match="No space left"), atomic_write(target):
        raise OSError(28, os.strerror(28))
    assert target.read_text() == "old"


def test_a_write_that_was_cut_short_without_a_reason_is_a_full_disk_only_where_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numpy says ``OSError("800 requested and 10 written")``, without a number."""
    for free, words in ((0, "No space left"), (2**30, "800 requested and 10 written")):
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(WorkbenchError, match=words) as caught, atomic_write(tmp_path / "a.npy"):
            raise OSError("800 requested and 10 written")
        assert is_disk_full(str(caught.value)) is (free == 0)


def test_a_file_in_the_way_of_a_folder_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="Choose another folder"):
        writable_folder(tmp_path / "file" / "sub")
    with pytest.raises(WorkbenchError, match="Choose a folder"), atomic_write(tmp_path / "file" / "x.txt"):
        pass
