"""A notebook, run headless and converted to a page: streams, failures and Ctrl-C, hidden cells and banners."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import nbformat
import pytest

from workbench.report.notebook import NotebookFailed, execute_notebook, fetches, write_page


def notebook(folder: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell("x = 1\nname = 'a'", metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "p"}})
    path = folder / "source.ipynb"
    nbformat.write(book, path)
    return path


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for cell in cells if cell.cell_type == "code" for o in cell.outputs)


def test_runs_this_python_with_the_parameters_and_hands_lines_on(tmp_path: Path) -> None:
    source = notebook(tmp_path, "import sys; print(sys.executable, x, name)", "sys.stderr.write('a line\\n')")
    lines: list[str] = []
    target = tmp_path / "{odd} name" / "out.ipynb"
    execute_notebook(source, target, {"x": 5, "name": "b"}, log=lines.append)
    assert f"{sys.executable} 5 b" in printed(target)
    assert "".join(lines) == "a line\n"
    assert [p.name for p in target.parent.iterdir()] == ["out.ipynb"]


def test_a_failing_cell_is_named_and_what_ran_is_kept(tmp_path: Path) -> None:
    raising = "from workbench.core.errors import StudyError\nraise StudyError('nothing was\\n  measured')"
    source = notebook(tmp_path, "print('before')", raising, "print('after')")
    with pytest.raises(NotebookFailed) as caught:
        execute_notebook(source, tmp_path / "out.ipynb", {}, log=lambda _: None)
    said = str(caught.value)
    assert said == "The cell 'from workbench.core.errors import StudyError' stopped: nothing was measured"
    assert "\n" not in said and not caught.value.stopped
    assert "before" in printed(tmp_path / "out.ipynb") and "after" not in printed(tmp_path / "out.ipynb")


@pytest.mark.slow
def test_a_foreign_error_keeps_its_name_and_a_dead_kernel_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotebookFailed, match=r"The cell '1 / 0' stopped with ZeroDivisionError: division by zero"):
        execute_notebook(notebook(tmp_path, "1 / 0"), tmp_path / "out.ipynb", {}, log=lambda _: None)
    with pytest.raises(NotebookFailed, match="kernel died without a message"):
        killed = notebook(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        execute_notebook(killed, tmp_path / "out.ipynb", {}, log=lambda _: None)
    with pytest.raises(NotebookFailed, match="kernel died: Fatal Python error: Aborted"):
        aborted = notebook(tmp_path, "import faulthandler, os; faulthandler.enable(); os.abort()")
        execute_notebook(aborted, tmp_path / "out.ipynb", {}, log=lambda _: None)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals as on Linux and macOS")
def test_ctrl_c_reaches_the_running_cell_which_can_put_its_work_in_order(tmp_path: Path) -> None:
    waiting = (
        "import sys, time, pathlib\ntry:\n    sys.stderr.write('ready\\n'); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    pathlib.Path(name).write_text('in order'); raise"
    )
    before = signal.getsignal(signal.SIGINT)
    seen: list[str] = []

    def interrupt_when_ready(words: str) -> None:
        seen.append(words)
        if "ready" in words:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    kept = tmp_path / "kept.txt"
    with pytest.raises(NotebookFailed, match=r"Stopped by Ctrl-C\.") as caught:
        parameters: dict[str, Any] = {"name": str(kept)}
        execute_notebook(notebook(tmp_path, waiting), tmp_path / "out.ipynb", parameters, log=interrupt_when_ready)
    assert caught.value.stopped
    assert kept.read_text() == "in order"
    assert (tmp_path / "out.ipynb").exists()
    assert signal.getsignal(signal.SIGINT) == before


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
