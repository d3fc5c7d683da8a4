"""Whether OpenVINO's compiler survives a model, tried in a process of its own: a crash of it would end a notebook.

Only where a person works in this process, in a notebook's kernel or at a prompt. The process in which models are tried
starts with the first one and ends with this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.errors import EngineError

_PLAIN: dict[str, Any] = {"SNIPPETS_MODE": "DISABLE"}
"""Without the kernels that OpenVINO generates for chains of element-wise operators, where 2026.4 was seen to crash."""
_LARGEST_STATUS = 255
"""Of a process that ends by itself; Windows gives crashes larger ones."""
PLAIN_NOTE = (
    "compiled without the kernels that OpenVINO generates for chains of element-wise operators "
    "(SNIPPETS_MODE=DISABLE): its compiler crashes on this model with them"
)


def interactive() -> bool:
    """Return whether a person works in this process, who would lose what it holds."""
    kernel: Any = sys.modules.get("ipykernel.kernelapp")
    return hasattr(sys, "ps1") or (kernel is not None and bool(kernel.IPKernelApp.initialized()))


def surviving(
    path: str, shapes: Sequence[Sequence[int]] | None, placement: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return settings to add so that the compiler survives a model, and notes on them.

    Parameters
    ----------
    path
        Of the model's file.
    shapes
        Of its inputs, in order; None where they are left as they are in the file.

    Raises
    ------
    EngineError
        If it crashes with and without them.
    """
    if not interactive():
        return {}, ()
    end = _TRIED.end_of(path, shapes, placement, settings)
    if end is None:
        return {}, ()
    if placement == "CPU" and _TRIED.end_of(path, shapes, placement, {**settings, **_PLAIN}) is None:
        return dict(_PLAIN), (PLAIN_NOTE,)
    raise EngineError(
        f"the compiler crashed ({end}) on {Path(path).name} in a process of its own, where it was tried first; "
        "this one goes on. Use the backend onnxruntime."
    )


class _Trials:
    """A process that compiles what it is told to, started again after a crash."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._survived: set[str] = set()
        self._lock = threading.Lock()

    def end_of(
        self, path: str, shapes: Sequence[Sequence[int]] | None, placement: str, settings: Mapping[str, Any]
    ) -> str | None:
        """Return by what the process ended while it compiled, None if it goes on; errors are no crashes."""
        asked = json.dumps([path, shapes, placement, dict(settings)])
        with self._lock, contextlib.suppress(OSError):  # where no process can be started, none is tried first
            file = Path(path).stat()
            known = f"{asked} {file.st_size} {file.st_mtime_ns}"
            if known in self._survived:
                return None
            end = self._asked(asked)
            if end is None:
                self._survived.add(known)
            return end
        return None

    def _asked(self, line: str) -> str | None:
        process = self._process = self._process or _started()
        try:
            answered = _answers(process, line)
        except BaseException:  # Ctrl-C: its answer would be taken for that to the next question
            process.kill()
            process.wait()
            self._process = None
            raise
        if answered:
            return None
        self._process = None
        return _crash(process.wait())


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _answers(process: subprocess.Popen[str], line: str) -> bool:
    """Return whether the process has compiled, or refused, what a line tells, and goes on."""
    if process.stdin is None or process.stdout is None:
        return False
    try:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        return bool(process.stdout.readline())
    except BrokenPipeError:
        return False


def _crash(code: int) -> str | None:
    """Return the crash that an exit status tells; None for a process that ended by itself, as one that cannot start."""
    if code < 0:
        return signal.Signals(-code).name
    return f"exit status {code:#x}" if code > _LARGEST_STATUS else None


def _serve() -> None:
    """Compile what standard input tells, line by line, and answer each with a line."""
    from workbench.engine.backends.openvino_ import shared_core

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        path, shapes, placement, settings = json.loads(line)
        with contextlib.suppress(Exception):  # this process only finds out what ends it
            core = shared_core()
            model = core.read_model(path)
            if shapes is not None:
                model.reshape(dict(enumerate(shapes)))
            core.compile_model(model, placement, settings)
        answers.write("tried\n")
        answers.flush()


_TRIED = _Trials()

if __name__ == "__main__":
    _serve()
