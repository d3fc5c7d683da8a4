"""The worker process of a study: ``python -m workbench.study.workers.main prepare|time --events FD``.

A *prepare* worker applies recipes and writes artifacts, with a cache of shared prefixes. A *time* worker holds one
engine, and runs blocks of calls and the evaluation. It ends when its input closes, even in the middle of a command.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import IO, Any

from workbench.core.allocator import use_steady_allocator
from workbench.engine.backends.openvino.compiler_guard import disable_trial_compile
from workbench.study.workers.policy import spans_of
from workbench.study.workers.protocol import read_frame

Emit = Callable[..., None]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve commands until the input closes."""
    parser = argparse.ArgumentParser(prog="python -m workbench.study.workers.main", description=__doc__)
    parser.add_argument("kind", choices=("prepare", "time"))
    parser.add_argument("--events", type=int, required=True, help="inherited descriptor for the events")
    options = parser.parse_args(argv)
    events, commands = _own_streams(options.events)

    def emit(event: str, **fields: Any) -> None:
        events.write(json.dumps({"event": event, **fields}) + "\n")
        events.flush()

    frames: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(commands, frames), daemon=True).start()
    hello, _ = frames.get()
    sys.path[:] = [*sys.path, *(p for p in hello["path"] if p not in sys.path)]
    worker = _worker(options.kind, hello, emit)
    emit("ready")
    while True:
        _answer(worker, *frames.get(), emit)


def _own_streams(descriptor: int) -> tuple[IO[str], IO[bytes]]:
    """Reserve the event descriptor and the input; prints go to standard error, and cannot break the protocol."""
    own = os.dup(descriptor)
    os.dup2(2, 1)
    if descriptor > 2:
        os.close(descriptor)
    commands = os.fdopen(os.dup(0), "rb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return os.fdopen(own, "w", encoding="utf-8"), commands


def _read(commands: IO[bytes], frames: queue.SimpleQueue[tuple[dict[str, Any], bytes]]) -> None:
    while (frame := read_frame(commands)) is not None:
        frames.put(frame)
    os._exit(0)  # the study has ended, or needs this worker no longer


def _worker(kind: str, hello: dict[str, Any], emit: Emit) -> Any:
    """Return the object whose methods are the commands."""
    disable_trial_compile()
    if hello.get("allocator", "steady") == "steady":  # before the first tensor, for all arms and trainings alike
        use_steady_allocator()
    if kind == "prepare":
        from workbench.study.workers.prepare_main import PrepareWorker

        return PrepareWorker(emit)
    from workbench.study.workers.timing_main import TimingWorker

    return TimingWorker(hello["backend"], emit)


def _answer(worker: Any, command: dict[str, Any], payload: bytes, emit: Emit) -> None:
    name = command.pop("command")
    begun = time.monotonic()
    try:
        answer: dict[str, Any] = getattr(worker, name)(command, payload)
        emit(name, **{"spans": spans_of(name, begun, time.monotonic()), **answer})
    except Exception as error:  # noqa: BLE001 - the study decides what a failed command means
        words = f"Out of memory: {error}" if isinstance(error, MemoryError) else str(error)
        emit("error", type=type(error).__name__, message=words, traceback=traceback.format_exc())


if __name__ == "__main__":
    sys.exit(main())
