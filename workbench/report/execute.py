"""Run a notebook headless with papermill, in a kernel of this very Python."""

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

from workbench.core import errors
from workbench.core.errors import WorkbenchError
from workbench.core.files import atomic_write

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class NotebookFailed(WorkbenchError):
    """A notebook did not run to its end; ``stopped`` tells that the user interrupted it."""

    def __init__(self, reason: str, *, stopped: bool = False) -> None:
        super().__init__(reason)
        self.stopped = stopped


def execute_notebook(
    source: str | Path, target: str | Path, parameters: Mapping[str, Any], *, log: Callable[[str], None]
) -> None:
    """Run ``source`` with ``parameters`` and leave the executed notebook at ``target``, also where a cell fails.

    Parameters
    ----------
    log
        Gets what the cells write to standard error, as it comes.

    Raises
    ------
    NotebookFailed
        With the cell and the error in one sentence. The first Ctrl-C interrupts the running cell, so that it
        can put its work in order; a second one ends the kernel.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    failure: NotebookFailed | None = None
    kernels: list[Any] = []
    with (
        atomic_write(target) as path,
        tempfile.TemporaryFile() as last_words,
        _first_interrupt_to(kernels) as interrupted,
    ):
        try:
            papermill.execute_notebook(
                str(source),
                str(path).replace("{", "{{").replace("}", "}}"),  # papermill formats the path
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",
                kernel_manager_class=_kernel_manager(kernels, last_words),
                progress_bar=False,
                stderr_file=_Writer(log),
            )
        except PapermillExecutionError as error:
            stopped = interrupted.is_set() or error.ename == "KeyboardInterrupt"
            failure = NotebookFailed("Stopped by Ctrl-C." if stopped else _sentence(error), stopped=stopped)
        except DeadKernelError:
            failure = NotebookFailed(_obituary(last_words))
        except KeyboardInterrupt:
            failure = NotebookFailed("Stopped by Ctrl-C.", stopped=True)
    if failure is not None:
        raise failure


def _obituary(last_words: IO[bytes]) -> str:
    """Return how a kernel ended that gave no answer."""
    last_words.seek(0)
    lines = last_words.read().decode(errors="replace").strip().splitlines()
    said = next((line for line in lines if line.startswith(("Fatal", "terminate"))), lines[-1] if lines else "")
    if said:
        return f"The notebook's process ended. Its last words: {said[:300]}"
    return "The notebook's process ended without a word; where memory ran out, the system ends it like that."


def _sentence(error: Any) -> str:
    """Return where a notebook failed and why: the cell's first line of code, and the error's last line."""
    source = next((line for line in error.source.splitlines() if line.strip() and not line.startswith("#")), "")
    reason = _COLOURS.sub("", str(error.evalue)).strip().splitlines()
    words = " ".join(line.strip() for line in reason) if len(reason) <= 3 else reason[0]
    own = isinstance(getattr(errors, error.ename, None), type)  # our own messages speak for themselves
    where = f"The cell {source.strip()!r} stopped"
    return f"{where}: {words}" if own and words else f"{where} with {error.ename}: {words or 'no message'}"


class _Writer:
    """A file for papermill that hands text on."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def write(self, words: str) -> None:
        self._log(words)

    def flush(self) -> None:
        """Nothing is held back."""


def _kernel_manager(started: list[Any], last_words: IO[bytes]) -> type:
    """Return a kernel manager that starts this Python, whatever kernels are installed or which venv is active.

    What the process itself writes, apart from its cells, goes to ``last_words``.
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
            await super()._async_launch_kernel(kernel_cmd, **{**options, "stderr": last_words})

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    return OwnKernel


@contextmanager
def _first_interrupt_to(kernels: list[Any]) -> Iterator[threading.Event]:
    """Give the first Ctrl-C to the kernel, which stands in a session of its own and would not see it."""
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def pass_on(number: int, frame: Any) -> None:
        process = kernels[-1].provisioner.process if kernels and kernels[-1].provisioner else None
        if seen.is_set() or process is None or process.poll() is not None or not hasattr(signal, "SIGKILL"):
            raise KeyboardInterrupt
        seen.set()
        process.send_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, pass_on)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
