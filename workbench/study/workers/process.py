"""A child process as the study sees it: start, send, wait for an answer, end."""

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
from workbench.study.workers.policy import WorkerPolicy, stalled
from workbench.study.workers.protocol import write_frame

GRACE_S = 3.0
_POLL_S = 0.2
_POSIX = os.name == "posix"


class CancelToken:
    """A request to stop, set from any thread; ``deadline`` is in seconds of ``time.monotonic``."""

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._event = threading.Event()

    def set(self) -> None:
        """Ask for the stop."""
        self._event.set()

    @property
    def requested(self) -> bool:
        """True once the stop was asked for."""
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until the stop is asked for."""
        self._event.wait(seconds)

    def remaining(self) -> float:
        """Seconds until the deadline; infinite without one."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def check(self) -> None:
        """Raise :class:`Cancelled` once the stop was asked for, :class:`OutOfTime` after the deadline."""
        if self.requested:
            raise Cancelled("The study was cancelled.")
        if self.remaining() <= 0:
            raise OutOfTime("The time budget is used up.")


class OutOfTime(Cancelled):
    """The budget ended while work was running."""


class WorkerError(TrialFailed):
    """The child answered that a command failed; it is alive. ``kind`` is the error's class there."""

    def __init__(self, kind: str, message: str, details: str) -> None:
        super().__init__(message if kind.endswith(("Error", "Unavailable")) and message else f"{kind}: {message}")
        self.kind = kind
        self.details = details


class WorkerProcess:
    """One worker process with its own process group.

    Parameters
    ----------
    kind : str
        ``"prepare"`` or ``"time"``.
    hello : mapping
        First message: what the child may import before its first command.
    log : Path
        File for whatever the child and its libraries print; its end is quoted when the child dies.
    stop : Stop
        Looked at while waiting.
    care : Care
        How long it may be silent, and where it is noted what its time went into.

    Raises
    ------
    StudyError
        If it cannot be started.
    """

    def __init__(
        self, kind: str, hello: Mapping[str, Any], *, log: Path, stop: CancelToken, policy: WorkerPolicy | None = None
    ) -> None:
        self.log = log
        self._stop = stop
        self._policy = policy or WorkerPolicy()
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        try:
            self._process, stream = _spawn(kind, log, self._policy.without)
        except OSError as error:
            raise StudyError(
                f"A process of the study cannot be started: {error.strerror} ({error.filename or log}). What is "
                "complete is kept; run again once there is room."
            ) from error
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()
        with contextlib.suppress(OSError):  # a child that died at once is noticed by the first wait
            write_frame(self._stdin, {**hello, "path": sys.path})
        self._ready = False

    @property
    def pid(self) -> int:
        """The child's process id; its process group has the same number."""
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

        Raises
        ------
        Cancelled, OutOfTime
            When the stop was asked for or the deadline passed; the child still runs then.
        ChildError
            When the command failed in the child.
        TrialFailed
            When the child ended, with the reason; or gave no sign for too long, and was killed.
        """
        self.wait_ready()
        self.send(command, payload, **fields)
        return self.answer(command, on_event=on_event)

    def send(self, command: str, payload: bytes = b"", **fields: Any) -> None:
        """Send a command and go on; the child takes it up once it is ready. Raises TrialFailed where it has ended."""
        try:
            write_frame(self._stdin, {"command": command, **fields}, payload)
        except OSError as error:
            raise TrialFailed(self._ending()) from error

    def answer(self, command: str, *, on_event: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Wait for the answer to a command that was sent; as :meth:`ask`."""
        self.wait_ready()
        return self._wait(command, on_event)

    def wait_ready(self) -> None:
        """Wait until the child has imported what it needs."""
        if not self._ready:
            self._wait("ready", None)
            self._ready = True

    def close(self) -> None:
        """End a child that has nothing left to do: its input closes, and it exits at once."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGTERM to the process group, 3 s, then SIGKILL."""
        for send in (signal.SIGTERM, None):
            _signal_group(self._process, send)
            try:
                self._process.wait(timeout=GRACE_S)
                break
            except subprocess.TimeoutExpired:
                continue
        _signal_group(self._process, None)  # what the child itself had started
        with contextlib.suppress(OSError):
            self._stdin.close()

    @property
    def _stdin(self) -> IO[bytes]:
        if self._process.stdin is None:
            raise TrialFailed("The process was started without an input.")
        return self._process.stdin

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with contextlib.suppress(ValueError):  # a line cut short by a kill
                    self._events.put(json.loads(line))
        self._events.put(None)

    def _wait(self, name: str, on_event: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
        heard, at = time.monotonic(), name
        while True:
            self._stop.check()
            try:
                event = self._events.get(timeout=_POLL_S)
            except queue.Empty:
                if self._policy.stall_s is not None and time.monotonic() - heard > self._policy.stall_s:
                    self.kill()
                    raise TrialFailed(stalled(self._policy.stall_s, at)) from None
                continue
            heard = time.monotonic()
            if event is None:
                raise TrialFailed(self._ending())
            if event["event"] == name:
                self._policy.phases.add(event.pop("spans", ()))
                return event
            if event["event"] == "error":
                raise WorkerError(event["type"], event["message"], event["traceback"])
            at = event.get("message") or event.get("stage") or at
            if on_event is not None:
                on_event(event)

    def _ending(self) -> str:
        try:
            code = self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            return "The process closed its connection but still ran."
        if code < 0:
            name = signal.Signals(-code).name
            hint = {
                "SIGKILL": " Somebody or the system killed it; when memory runs out Linux does that: "
                "try a smaller batch or close other programs.",
                "SIGSEGV": " A library crashed.",
                "SIGILL": " A library used an instruction that this CPU does not have.",
            }.get(name, "")
            return f"The process was ended by {name}.{hint}{self._last_words()}"
        return f"The process ended with status {code} and without a result.{self._last_words()}"

    def _last_words(self) -> str:
        try:
            lines = [x for x in self.log.read_text(errors="replace").splitlines() if x.strip()]
            lines = [x for x in lines if not x.startswith("USDT:")]  # torch's profiler, which began or ended
        except OSError:
            return ""
        return f" It last printed: {lines[-1][:300]}" if lines else ""


def _spawn(kind: str, log: Path, without: Collection[str]) -> tuple[subprocess.Popen[bytes], IO[str]]:
    command = [sys.executable, "-m", "workbench.study.workers.main", kind, "--events"]
    environment = {name: value for name, value in os.environ.items() if name not in without}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as errors:
        if not _POSIX:  # no inherited descriptors there: the worker keeps its standard output for events
            process = subprocess.Popen(
                [*command, "1"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
            return process, os.fdopen(os.dup(process.stdout.fileno()), encoding="utf-8")  # type: ignore[union-attr]
        reading, writing = os.pipe()
        try:
            process = subprocess.Popen(
                [*command, str(writing)],
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


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals | None) -> None:
    """Send a signal to the child's group; None: the strongest there is."""
    with contextlib.suppress(OSError):
        if _POSIX:
            os.killpg(process.pid, number or signal.SIGKILL)
        elif number is None:
            process.kill()
        else:
            process.terminate()
