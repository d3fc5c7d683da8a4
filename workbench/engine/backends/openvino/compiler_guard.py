"""Compile a model for OpenVINO in another process first, because a crash would end a notebook or server.

That process starts with the first model, ends after some idle time, and with this process at the latest. A worker of a
study needs no trial: it is such a process itself.
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

_NO_SNIPPETS: dict[str, Any] = {"SNIPPETS_MODE": "DISABLE"}
"""Without generated kernels for chains of element-wise operators, in which 2026.4 crashes on some models."""
SNIPPETS_NOTE = (
    "compiled without the kernels that OpenVINO generates for chains of element-wise operators "
    "(SNIPPETS_MODE=DISABLE): its compiler crashes on this model with them"
)
_IDLE_S = 20.0
"""Idle time after which the process ends, because it holds some hundred MiB."""
_disabled = False


def disable_trial_compile() -> None:
    """Disable trial compiles in this process, whose crash its parent survives."""
    global _disabled
    _disabled = True


def crash_free_settings(
    path: str, shapes: Sequence[Sequence[int]] | None, placement: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return additional settings that prevent a crash of the compiler, and notes on them.

    ``shapes`` are those of the inputs in order, None for those of the file. Raises EngineError if the compiler crashes
    with and without the settings.
    """
    if _disabled or getattr(sys, "frozen", False):  # a frozen program would start itself instead of Python
        return {}, ()
    crash = _TRIALS.crash_of(path, shapes, placement, settings)
    if crash is None:
        return {}, ()
    if placement == "CPU" and _TRIALS.crash_of(path, shapes, placement, {**settings, **_NO_SNIPPETS}) is None:
        return dict(_NO_SNIPPETS), (SNIPPETS_NOTE,)
    raise EngineError(
        f"the compiler crashed ({crash}) on {Path(path).name} in a trial process. Use the backend onnxruntime."
    )


class _TrialProcess:
    """A process that compiles models, restarted after a crash."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._survived: set[str] = set()
        self._lock = threading.Lock()

    def crash_of(
        self, path: str, shapes: Sequence[Sequence[int]] | None, placement: str, settings: Mapping[str, Any]
    ) -> str | None:
        """Return the crash of compiling a model, None if it compiles or raises an error."""
        request = json.dumps([path, shapes, placement, dict(settings)])
        with self._lock, contextlib.suppress(OSError):  # no trial if no process can be started
            file = Path(path).stat()
            key = f"{request} {file.st_size} {file.st_mtime_ns}"
            if key in self._survived:
                return None
            crash = self._crash_on(request)
            if crash is None:
                self._survived.add(key)
            return crash
        return None

    def _crash_on(self, request: str, *, retry: bool = True) -> str | None:
        if self._process is None or self._process.poll() is not None:
            self._process = _started()
        process = self._process
        try:
            survived = _compiles(process, request)
        except BaseException:  # Ctrl-C: the reply would be read as that to the next request
            process.kill()
            process.wait()
            self._process = None
            raise
        if survived:
            return None
        self._process = None
        code = process.wait()
        if code == 0 and retry:  # its idle time was over just then
            return self._crash_on(request, retry=False)
        return signal.Signals(-code).name if code < 0 else None  # it ended normally, or could not start


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _compiles(process: subprocess.Popen[str], request: str) -> bool:
    """Return whether the process has compiled or refused a model without a crash."""
    if process.stdin is None or process.stdout is None:
        return False
    try:
        process.stdin.write(f"{request}\n")
        process.stdin.flush()
        return bool(process.stdout.readline())
    except BrokenPipeError:
        return False


def _serve() -> None:
    """Compile the models requested on standard input, and reply with a line to each."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps prints of libraries out of the replies
    idle = _timer()
    for line in sys.stdin:
        idle.cancel()
        path, shapes, placement, settings = json.loads(line)
        with contextlib.suppress(Exception):  # only crashes matter
            core = shared_core()
            model = core.read_model(path)
            if shapes is not None:
                model.reshape(dict(enumerate(shapes)))
            core.compile_model(model, placement, settings)
        idle = _timer()
        replies.write("tried\n")
        replies.flush()


def _timer() -> threading.Timer:
    timer = threading.Timer(_IDLE_S, os._exit, (0,))
    timer.daemon = True
    timer.start()
    return timer


_TRIALS = _TrialProcess()

if __name__ == "__main__":
    _serve()
