"""Run a notebook headless in a kernel of this Python, and convert it to one self-contained HTML file."""

from __future__ import annotations

import logging
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from workbench import __version__
from workbench.core import errors
from workbench.core.errors import WorkbenchError
from workbench.core.files import atomic_write
from workbench.present.html import style

_COLORS = re.compile(r"\x1b\[[0-9;]*m")


class NotebookFailed(WorkbenchError):
    """A notebook did not run to its end; ``stopped`` is True if the user interrupted it."""

    def __init__(self, reason: str, *, stopped: bool = False) -> None:
        super().__init__(reason)
        self.stopped = stopped


def execute_notebook(
    source: str | Path, target: str | Path, parameters: Mapping[str, Any], *, log: Callable[[str], None]
) -> None:
    """Run ``source`` with ``parameters`` and write the executed notebook to ``target``, also if a cell fails.

    Parameters
    ----------
    log
        Called with the text that cells write to standard error.

    Raises
    ------
    NotebookFailed
        If a cell or the kernel fails. The first Ctrl-C interrupts the running cell, which can then clean up; a second
        one kills the kernel.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    failure: NotebookFailed | None = None
    kernels: list[Any] = []
    with (
        atomic_write(target) as path,
        tempfile.TemporaryFile() as kernel_stderr,
        _first_interrupt_to(kernels) as interrupted,
    ):
        try:
            papermill.execute_notebook(
                str(source),
                str(path).replace("{", "{{").replace("}", "}}"),  # papermill formats the path
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",
                kernel_manager_class=_kernel_manager(kernels, kernel_stderr),
                progress_bar=False,
                stderr_file=_Writer(log),
            )
        except PapermillExecutionError as error:
            stopped = interrupted.is_set() or error.ename == "KeyboardInterrupt"
            failure = NotebookFailed("Stopped by Ctrl-C." if stopped else _sentence(error), stopped=stopped)
        except DeadKernelError:
            failure = NotebookFailed(_death(kernel_stderr))
        except KeyboardInterrupt:
            failure = NotebookFailed("Stopped by Ctrl-C.", stopped=True)
    if failure is not None:
        raise failure


def _death(kernel_stderr: IO[bytes]) -> str:
    """Return the error of a kernel that died."""
    kernel_stderr.seek(0)
    lines = kernel_stderr.read().decode(errors="replace").strip().splitlines()
    message = next((line for line in lines if line.startswith(("Fatal", "terminate"))), lines[-1] if lines else "")
    if message:
        return f"The notebook's kernel died: {message[:300]}"
    return "The notebook's kernel died without a message. The system does this if memory runs out."


def _sentence(error: Any) -> str:
    """Return the failing cell's first line of code and its error."""
    source = next((line for line in error.source.splitlines() if line.strip() and not line.startswith("#")), "")
    reason = _COLORS.sub("", str(error.evalue)).strip().splitlines()
    message = " ".join(line.strip() for line in reason) if len(reason) <= 3 else reason[0]
    own = isinstance(getattr(errors, error.ename, None), type)  # messages of the workbench need no type
    cell = f"The cell {source.strip()!r} stopped"
    return f"{cell}: {message}" if own and message else f"{cell} with {error.ename}: {message or 'no message'}"


class _Writer:
    """A file object for papermill that calls ``log``."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def write(self, text: str) -> None:
        self._log(text)

    def flush(self) -> None:
        """Do nothing: no text is buffered."""


def _kernel_manager(started: list[Any], kernel_stderr: IO[bytes]) -> type:
    """Return a kernel manager that starts this Python, independent of installed kernels and the active venv.

    ``kernel_stderr`` receives the standard error of the process, apart from its cells.
    """
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class OwnKernel(AsyncKernelManager):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            if self.has_trait("transport_encryption"):  # jupyter_client 8.10; else the kernel warns on every start
                self.set_trait("transport_encryption", "auto")
            started.append(self)

        async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
            await super()._async_launch_kernel(kernel_cmd, **{**options, "stderr": kernel_stderr})

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    return OwnKernel


@contextmanager
def _first_interrupt_to(kernels: list[Any]) -> Iterator[threading.Event]:
    """Pass the first Ctrl-C to the kernel, which runs in another session; the event is set then."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def forward(number: int, frame: Any) -> None:
        process = kernels[-1].provisioner.process if kernels and kernels[-1].provisioner else None
        if interrupted.is_set() or process is None or process.poll() is not None or not hasattr(signal, "SIGKILL"):
            raise KeyboardInterrupt
        interrupted.set()
        process.send_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, forward)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


TEMPLATE = Path(__file__).with_name("page.html.j2")
HIDDEN_CELLS = ("notebook-only", "papermill-error-cell-tag")
HIDDEN_OUTPUTS = ("log",)
_LINKS = re.compile(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)


def write_page(notebook: str | Path, path: str | Path, *, title: str, failure: str | None = None) -> Path:
    """Convert an executed notebook to ``path``: without code, images embedded, with a banner if it failed.

    Cells tagged ``notebook-only`` and outputs of cells tagged ``log`` are left out.
    """
    import nbformat

    node = nbformat.read(str(notebook), as_version=4)
    page = {"style": style(), "title": title, "failure": failure, "version": __version__}
    source, _ = _exporter().from_notebook_node(node, resources={"workbench": page})
    with atomic_write(path) as temporary:
        temporary.write_text(source, encoding="utf-8")
    return Path(path)


def fetches(source: str) -> list[str]:
    """Return the links of an HTML page to the network, with the text around them."""
    return [source[max(0, m.start() - 20) : m.end() + 60] for m in _LINKS.finditer(source)]


def _exporter() -> Any:
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import TagRemovePreprocessor
    from traitlets.config import Config

    settings = Config()
    settings.TagRemovePreprocessor.remove_cell_tags = set(HIDDEN_CELLS)
    settings.TagRemovePreprocessor.remove_all_outputs_tags = set(HIDDEN_OUTPUTS)
    exporter = HTMLExporter(config=settings, exclude_anchor_links=True)
    exporter.raw_template = TEMPLATE.read_text(encoding="utf-8")
    exporter.register_preprocessor(TagRemovePreprocessor(config=settings), enabled=True)
    return exporter
