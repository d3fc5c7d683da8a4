"""Whose turn it is on this machine: studies of other processes prepare side by side, but each times alone.

The lock is one of the operating system's on a file, so it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

POLL_S = 0.1
NAME = "inference-workbench-turn"
_POSIX = os.name == "posix"


class Waiter(Protocol):
    """What ends a waiting early: :class:`workbench.study.workers.process.CancelToken` is one."""

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until the stop is asked for."""

    def check(self) -> None:
        """Raise where the work is to stop."""


def lock_folder() -> Path:
    """Return where the lock lies: ``WORKBENCH_LOCK_DIR``, else one folder for all users of this machine.

    That is not ``TMPDIR``, which differs between users and jobs: they share the cores, so they must share the lock.
    """
    own = os.environ.get("WORKBENCH_LOCK_DIR")
    if own:
        return Path(own)
    return Path("/tmp") if _POSIX else Path(tempfile.gettempdir())


@contextlib.contextmanager
def machine_lock(
    *, exclusive: bool, stop: Waiter, say: Callable[[str], None], folder: Path | None = None
) -> Iterator[Callable[[], bool]]:
    """Hold this machine's turn within a ``with`` block: ``exclusive`` to time, else beside others who do not time.

    The block gets a function that says whether somebody waits for it to end.

    Everyone queues for a second lock first: who has waited for the cores gets them before one who just gave them back
    and wants them again. A turn cannot be taken again inside of one.

    Parameters
    ----------
    alone : bool
        True to time something: nobody else has a turn then. False for work that only must not disturb a timing.
    stop : Waiter
        Looked at while waiting.
    say : callable
        Gets a sentence when there is something to wait for, and where no lock can be had: work then goes on without.
    folder : Path, optional
        Where the lock lies; :func:`lock_folder` by default.

    Raises
    ------
    Cancelled, OutOfTime
        As ``stop.check()`` does.

    Examples
    --------
    >>> with machine_lock(exclusive=True, stop=CancelToken(), say=print):  # doctest: +SKIP
    ...     samples = arm.block(0.06)
    """
    where = lock_folder() if folder is None else folder
    with contextlib.ExitStack() as stack:
        try:
            wanted = _queued(stack, where, exclusive=exclusive, stop=stop, say=say)
        except OSError as error:  # no folder, or a file system without locks
            stack.close()
            say(f"other studies on this machine are not waited for, since {where} gives no lock: {error.strerror}")
            wanted = _nobody
        yield wanted


def _queued(
    stack: contextlib.ExitStack, where: Path, *, exclusive: bool, stop: Waiter, say: Callable[[str], None]
) -> Callable[[], bool]:
    """Take the turn, which ``stack`` gives back, and return what says whether somebody waits for it."""
    where.mkdir(parents=True, exist_ok=True)
    queue, cores = (stack.enter_context(_opened(where / f"{NAME}{suffix}")) for suffix in (".queue", ".lock"))
    said = False
    for descriptor, only_one in ((queue, True), (cores, exclusive)):
        while not _taken(descriptor, exclusive=only_one):
            if not said:
                said = True
                say("waiting for another study on this machine, which has the cores")
            stop.wait(POLL_S)
            stop.check()
    _give_back(queue)
    return functools.partial(_waited_for, queue)


def _nobody() -> bool:
    return False


def _waited_for(queue: int) -> bool:
    """Say whether somebody has the queue, and so waits for the cores."""
    if not _taken(queue, exclusive=True):
        return True
    _give_back(queue)
    return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # which gives the lock back


def _open(path: Path) -> int:
    """Open a lock file of whichever user. It is never written: Linux lets a reader lock."""
    follow = getattr(os, "O_NOFOLLOW", 0)  # in a folder that all may write to, a link may be a trap
    mode = os.O_RDONLY if _POSIX else os.O_RDWR
    with contextlib.suppress(FileNotFoundError):  # Linux refuses O_CREAT on the file of another user in such a folder
        return os.open(path, mode | follow)
    descriptor = os.open(path, mode | os.O_CREAT | follow, 0o644)
    if _POSIX:
        with contextlib.suppress(PermissionError):  # another user made it just now
            os.fchmod(descriptor, 0o644)  # a strict umask must not lock other users out
    return descriptor


def _taken(descriptor: int, *, exclusive: bool) -> bool:
    try:
        if _POSIX:
            import fcntl

            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        else:
            _windows(descriptor, "LK_NBLCK")
    except (BlockingIOError, PermissionError):
        return False
    return True


def _give_back(descriptor: int) -> None:
    if _POSIX:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_UN)
    else:
        _windows(descriptor, "LK_UNLCK")


def _windows(descriptor: int, mode: str) -> None:
    """Lock or unlock the first byte; Windows has no shared lock, so that preparing waits for preparing there."""
    import msvcrt

    os.lseek(descriptor, 0, os.SEEK_SET)
    msvcrt.locking(descriptor, getattr(msvcrt, mode), 1)  # type: ignore[attr-defined]
