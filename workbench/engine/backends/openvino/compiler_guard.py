"""Whether OpenVINO's compiler survives a model, tried in a process of its own: a crash would end a notebook or server.

That process starts with the first model, ends when none came for a while, and ends with this process at the latest.
A worker of a study is such a process itself, and tries nothing first.
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
from workbench.engine.backends.openvino.runtime import shared_core

_PLAIN: dict[str, Any] = {"SNIPPETS_MODE": "DISABLE"}
"""Without the kernels that OpenVINO generates for chains of element-wise operators, where 2026.4 was seen to crash."""
_LARGEST_STATUS = 255
"""Of a process that ends by itself; Windows gives crashes larger ones."""
PLAIN_NOTE = (
    "compiled without the kernels that OpenVINO generates for chains of element-wise operators "
    "(SNIPPETS_MODE=DISABLE): its compiler crashes on this model with them"
)


_IDLE_S = 20.0
"""After so many seconds without a model the process ends, since it holds some hundred MiB."""
_EXPENDABLE = False


def disable_trial_compile() -> None:
    """Try nothing first from now on: another process waits for this one, and a crash ends one trial of many."""
    global _EXPENDABLE
    _EXPENDABLE = True


def crash_free_settings(
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
    if _EXPENDABLE or getattr(sys, "frozen", False):  # a frozen program would start itself in place of Python
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

    def _asked(self, line: str, *, again: bool = True) -> str | None:
        if self._process is None or self._process.poll() is not None:
            self._process = _started()
        process = self._process
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
        code = process.wait()
        if code == 0 and again:  # it had been idle for too long just then
            return self._asked(line, again=False)
        return _crash(code)


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
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    idle = _timer()
    for line in sys.stdin:
        idle.cancel()
        path, shapes, placement, settings = json.loads(line)
        with contextlib.suppress(Exception):  # this process only finds out what ends it
            core = shared_core()
            model = core.read_model(path)
            if shapes is not None:
                model.reshape(dict(enumerate(shapes)))
            core.compile_model(model, placement, settings)
        idle = _timer()
        answers.write("tried\n")
        answers.flush()


def _timer() -> threading.Timer:
    timer = threading.Timer(_IDLE_S, os._exit, (0,))
    timer.daemon = True
    timer.start()
    return timer


_TRIED = _Trials()

if __name__ == "__main__":
    _serve()
