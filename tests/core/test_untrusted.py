"""Text of files: what is refused, and how the rest is quoted."""

from __future__ import annotations

import os

import pytest

from workbench.core.errors import ConfigError, StudyError
from workbench.core.untrusted import (
    code_span,
    escape_control,
    escape_markdown,
    one_line,
    parse_untrusted,
    require_line,
    require_regular_file as regular,
    safe_path,
)


@pytest.mark.parametrize(
    "value", ["", " ", "a\nb", "a\rb", "a\u2028b", "a\0b", "\x1b[2J", "x" * 201, "\ud800", 5, None]
)
def test_what_is_no_printable_line_is_refused(value):
    with pytest.raises(ConfigError, match="A name must be one line"):
        require_line("A name", value, error=ConfigError)


@pytest.mark.parametrize("value", ["input_ids", "/model/out:0", "größe 32×32", "模型", "a b"])
def test_names_in_any_script_are_kept(value):
    assert require_line("A name", value, error=ConfigError) == value


def test_one_line_has_no_line_end_of_any_kind():
    line = one_line("a\nb\rc\u2028d\x85e\x0bf\x00g")
    assert len(line.splitlines()) == 1 and line.isprintable()
    assert escape_control("a\n\tb\x1b") == "a\n\tb\\x1b"


def test_markdown_is_shown_and_not_followed():
    assert escape_markdown("digits_vit 0.5 (95 % CI 1.2-3.4)") == "digits_vit 0.5 (95 % CI 1.2-3.4)"
    assert "<script>" not in escape_markdown("<script>")
    assert "](" not in escape_markdown("[a](http://b)").replace("\\](", "")
    assert code_span("``x") == "``` ``x ```"


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "/etc/passwd", "a\0b", "", None, 3, "a\nb"])
def test_a_name_stays_in_its_folder(tmp_path, name):
    with pytest.raises(StudyError):
        safe_path(tmp_path, name, error=StudyError)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    with pytest.raises(StudyError, match="leads out"):
        safe_path(tmp_path / "in", "link", error=StudyError)
    assert safe_path(tmp_path / "in", "new", error=StudyError) == tmp_path / "in" / "new"


def test_devices_pipes_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", tmp_path / "a\0b"):
        with pytest.raises(ConfigError):
            regular(path, error=ConfigError)
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="not a regular file"):
        regular(tmp_path / "zero", error=ConfigError)


def test_a_value_of_another_form_is_refused_in_one_line():
    for value in ({}, [], None, {"a": "x"}):
        with pytest.raises(StudyError, match="what the workbench wrote"):
            parse_untrusted("The setting", value, lambda found: int(found["a"]), error=StudyError)
