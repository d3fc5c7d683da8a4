"""From a notebook to a page: what is hidden, what is said where it failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from workbench.report.notebook import fetches, write_page


def page_of(tmp_path: Path, *cells: Any, failure: str | None = None) -> str:
    book = nbformat.v4.new_notebook(cells=list(cells))
    nbformat.write(book, tmp_path / "n.ipynb")
    return write_page(tmp_path / "n.ipynb", tmp_path / "n.html", title="T", failure=failure).read_text()


def cell(source: str, words: str, *tags: str) -> Any:
    outputs = [nbformat.v4.new_output("stream", name="stderr", text=words)]
    return nbformat.v4.new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


def test_code_logs_and_notebook_only_cells_are_hidden(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        nbformat.v4.new_markdown_cell("## Seen"),
        nbformat.v4.new_markdown_cell("how to run", metadata={"tags": ["notebook-only"]}),
        cell("secret_code()", "shown words"),
        cell("report.run()", "log words", "log"),
    )
    assert "Seen" in page and "shown words" in page
    for hidden in ("secret_code", "how to run", "log words"):
        assert hidden not in page


def test_a_failure_is_said_at_the_top_and_no_trace_is_shown(tmp_path: Path) -> None:
    broken = nbformat.v4.new_code_cell("boom()")
    broken.outputs = [nbformat.v4.new_output("error", ename="E", evalue="v", traceback=["long trace"])]
    page = page_of(tmp_path, broken, failure="The cell 'boom()' stopped: <v>")
    assert "This report is incomplete." in page and "&lt;v&gt;" in page
    assert "long trace" not in page


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('<script src="https://cdn.example/x.js">', 1),
        ("<link href='//fonts.example/y'>", 1),
        ('<img src="data:image/png;base64,AAAA">', 0),
        ('<a href="#here">', 0),
    ],
)
def test_fetches_finds_what_comes_from_outside(source: str, count: int) -> None:
    assert len(fetches(source)) == count
