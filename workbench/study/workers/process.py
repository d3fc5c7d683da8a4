"""A worker process as the study sees it: start, send a command, wait for the answer, end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Any

from workbench.core.errors import Cancelled, StudyError, TrialFailed
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.protocol import write_frame

GRACE_S = 3.0
_POLL_S = 0.2
_SIGNAL_HINTS = {
    "SIGKILL": " Linux does that if memory runs out: try a smaller batch, or close other programs.",
    "SIGSEGV": " A library crashed.",
    "SIGILL": " A library used an instruction that this CPU does not have.",
}


class CancelToken:
    """A request to stop, set from any thread; ``deadline`` is in seconds of ``time.monotonic``."""

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._event = threading.Event()

    def set(self) -> None:
        """Request the stop."""
        self._event.set()

    @property
    def requested(self) -> bool:
        """True once the stop was requested."""
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until the request."""
        self._event.wait(seconds)

    def remaining(self) -> float:
        """Return the seconds until the deadline; infinite without one."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def check(self) -> None:
        """Raise :class:`Cancelled` after the request, :class:`OutOfTime` after the deadline."""
        if self.requested:
            raise Cancelled("The study was cancelled.")
        if self.remaining() <= 0:
            raise OutOfTime("The time budget is used up.")


class OutOfTime(Cancelled):
    """The time budget ended while work was running."""


class WorkerError(TrialFailed):
    """A command failed in the worker, which is still alive; ``kind`` is the error's class there."""

    def __init__(self, kind: str, message: str, details: str) -> None:
        super().__init__(message if kind.endswith(("Error", "Unavailable")) and message else f"{kind}: {message}")
        self.kind = kind
        self.details = details


class WorkerProcess:
    """A process that runs :mod:`workbench.study.workers.main` as ``"prepare"`` or ``"time"``, in a group of its own.

    ``hello`` is its first message, with what it may import before the first command. ``log`` takes its prints; the last
    line is quoted if it dies. Raises StudyError if it cannot be started.
    """

    def __init__(
        self, kind: str, hello: Mapping[str, Any], *, log: Path, stop: CancelToken, policy: WorkerPolicy | None = None
    ) -> None:
        self.log = log
        self._stop = stop
        self._policy = policy or WorkerPolicy()
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._ready = False
        try:
            self._process, stream = _spawn(kind, log, self._policy.unset)
        except OSError as error:
            raise StudyError(
                f"A worker process cannot be started: {error.strerror} ({error.filename or log}). "
                "Complete trials are kept; free some resources and run again."
            ) from error
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()
        with contextlib.suppress(OSError):  # a worker that died at once is noticed by the first wait
            write_frame(self._stdin, {**hello, "path": sys.path})

    @property
    def pid(self) -> int:
        """Process id, which is also the number of the process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process.poll() is None

    def ask(
        self,
        command: str,
        payload: bytes = b"",
        *,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Send a command and wait for its answer; other events go to ``on_event``.

        Raises Cancelled or OutOfTime (the worker still runs then), WorkerError if the command failed in the worker, and
        TrialFailed if the worker ended or was killed at the stall timeout.
        """
        self.wait_ready()
        self.send(command, payload, **fields)
        return self.answer(command, on_event=on_event)

    def send(self, command: str, payload: bytes = b"", **fields: Any) -> None:
        """Send a command without waiting for its answer. Raises TrialFailed if the worker has ended."""
        try:
            write_frame(self._stdin, {"command": command, **fields}, payload)
        except OSError as error:
            raise TrialFailed(self._exit_reason()) from error

    def answer(self, command: str, *, on_event: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Wait for the answer to a command that was sent; errors as :meth:`ask`."""
        self.wait_ready()
        return self._wait(command, on_event)

    def wait_ready(self) -> None:
        """Wait until the worker has imported its libraries."""
        if not self._ready:
            self._wait("ready", None)
            self._ready = True

    def close(self, *, kill: bool = False) -> None:
        """End an idle worker by closing its input; ``kill`` does not wait for its work."""
        if kill:
            self.kill()
            return
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Send SIGTERM to the process group, and SIGKILL after 3 s."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal_group(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=GRACE_S)
                break
        self._signal_group(signal.SIGKILL)  # for processes that the worker has started
        with contextlib.suppress(OSError):
            self._stdin.close()

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, number)

    @property
    def _stdin(self) -> IO[bytes]:
        stream = self._process.stdin
        if stream is None:
            raise StudyError("The worker process has no input stream.")
        return stream

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with contextlib.suppress(ValueError):  # a line that a kill cut short
                    self._events.put(json.loads(line))
        self._events.put(None)

    def _wait(self, name: str, on_event: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
        last_event, activity = time.monotonic(), name
        while True:
            self._stop.check()
            try:
                event = self._events.get(timeout=_POLL_S)
            except queue.Empty:
                limit = self._policy.stall_s
                if limit is not None and time.monotonic() - last_event > limit:
                    self.kill()
                    raise TrialFailed(
                        f"Worker killed: no progress for {limit:g} s during {activity!r}. "
                        "Increase stall_timeout_s if this step is expected to take longer."
                    ) from None
                continue
            last_event = time.monotonic()
            if event is None:
                raise TrialFailed(self._exit_reason())
            if event["event"] == name:
                self._policy.phases.add(event.pop("spans", ()))
                return event
            if event["event"] == "error":
                raise WorkerError(event["type"], event["message"], event["traceback"])
            activity = event.get("message") or event.get("stage") or activity
            if on_event is not None:
                on_event(event)

    def _exit_reason(self) -> str:
        try:
            code = self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            return "The process closed its connection but still ran."
        if code < 0:
            name = signal.Signals(-code).name
            return f"The process was ended by {name}.{_SIGNAL_HINTS.get(name, '')}{self._last_output()}"
        return f"The process ended with status {code} and without a result.{self._last_output()}"

    def _last_output(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        lines = [x for x in lines if x.strip() and not x.startswith("USDT:")]  # printed by torch's profiler
        return f" It last printed: {lines[-1][:300]}" if lines else ""


def _spawn(kind: str, log: Path, unset: Collection[str]) -> tuple[subprocess.Popen[bytes], IO[str]]:
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as errors:
        reading, writing = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "workbench.study.workers.main", kind, "--events", str(writing)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
                pass_fds=[writing],
                start_new_session=True,
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
    return process, os.fdopen(reading, encoding="utf-8")
