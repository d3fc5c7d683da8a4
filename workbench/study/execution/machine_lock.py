"""The machine lock: studies of several processes may prepare at once, but only one of them times.

It is a lock of the operating system on a file, so it ends with the process that holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from workbench.study.workers.process import CancelToken

POLL_S = 0.1
NAME = "inference-workbench-turn"


def lock_folder() -> Path:
    """Return the folder of the lock: ``WORKBENCH_LOCK_DIR``, else ``/tmp``.

    Not ``TMPDIR``, which differs between users and jobs: they share the cores, so they must share the lock.
    """
    return Path(os.environ.get("WORKBENCH_LOCK_DIR") or "/tmp")


@contextlib.contextmanager
def machine_lock(
    *, exclusive: bool, stop: CancelToken, notify: Callable[[str], None], folder: Path | None = None
) -> Iterator[Callable[[], bool]]:
    """Hold the machine lock within a ``with`` block, which gets a function that returns True if another study waits.

    Every process queues for a second lock first: who waits for the cores gets them before a process that just
    released them and takes them again. The lock is not reentrant.

    ``exclusive`` is True to time, and False for work that must not disturb a timing, which several processes may do at
    once. ``notify`` gets a message if the lock is held elsewhere, or if ``folder`` (:func:`lock_folder` by default) has
    no locks, and work continues without one. Raises what ``stop.check()`` raises.
    """
    where = lock_folder() if folder is None else folder
    with contextlib.ExitStack() as stack:
        try:
            contended = _acquire(stack, where, exclusive=exclusive, stop=stop, notify=notify)
        except OSError as error:  # the folder is missing, or its file system has no locks
            stack.close()
            notify(f"No machine lock in {where} ({error.strerror}); other studies may disturb timings.")
            contended = _uncontended
        yield contended


def _acquire(
    stack: contextlib.ExitStack, where: Path, *, exclusive: bool, stop: CancelToken, notify: Callable[[str], None]
) -> Callable[[], bool]:
    where.mkdir(parents=True, exist_ok=True)
    queue, cores = (stack.enter_context(_opened(where / f"{NAME}{suffix}")) for suffix in (".queue", ".lock"))
    reported = False
    for descriptor, alone in ((queue, True), (cores, exclusive)):
        while not _try_lock(descriptor, exclusive=alone):
            if not reported:
                reported = True
                notify("waiting for another study on this machine, which has the cores")
            stop.wait(POLL_S)
            stop.check()
    fcntl.flock(queue, fcntl.LOCK_UN)
    return functools.partial(_is_contended, queue)


def _uncontended() -> bool:
    return False


def _is_contended(queue: int) -> bool:
    """Return True if another process holds the queue, and so waits for the cores."""
    if not _try_lock(queue, exclusive=True):
        return True
    fcntl.flock(queue, fcntl.LOCK_UN)
    return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a lock file, which may be another user's, for reading: Linux locks those too."""
    flags = os.O_RDONLY | os.O_NOFOLLOW  # in a folder that all may write to, a link may be a trap
    try:
        descriptor = os.open(path, flags)  # without O_CREAT, which Linux refuses on another user's file in /tmp
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o644)
        with contextlib.suppress(PermissionError):  # another user made it just now
            os.fchmod(descriptor, 0o644)  # a strict umask must not lock other users out
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # releases the lock


def _try_lock(descriptor: int, *, exclusive: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
