"""Silence libraries for the length of a block: known messages, all output of this thread, or lines of compiled code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import warnings as python_warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any


@contextlib.contextmanager
def quiet(
    *, loggers: Sequence[str] = (), messages: Sequence[str] = ("",), warnings: Sequence[Mapping[str, Any]] = ()
) -> Iterator[None]:
    """Drop log records of this thread that contain one of ``messages``, and Python warnings.

    Parameters
    ----------
    loggers : sequence of str
        Each logger that emits the records: filters do not reach child loggers.
    messages : sequence of str
        Parts of the records to drop; all records by default.
    warnings : sequence of mappings
        Arguments of :func:`warnings.filterwarnings`, such as ``{"message": "...", "category": UserWarning}``.
    """
    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        return record.thread != thread or not any(part in record.getMessage() for part in messages)

    with _filtered([logging.getLogger(name) for name in loggers], keep), python_warnings.catch_warnings():
        for options in warnings:
            python_warnings.filterwarnings("ignore", **options)
        yield


def quiet_torchao() -> contextlib.AbstractContextManager[None]:
    """Drop the messages of torchao's import about GPU extensions that a CPU build cannot load."""
    return quiet(
        loggers=("torchao", "torchao.ops", "torch.utils._pytree", "root"),
        messages=(
            "Failed to load",
            "Skipping import of cpp extensions",
            "is an Enum subclass and is now natively supported",
        ),
        warnings=(
            {"message": "must run observer before calling calculate_qparams"},
            {"message": "Please use quant_min and quant_max"},
            {"message": ".*is deprecated", "module": r"torchao\..*"},
        ),
    )


@contextlib.contextmanager
def silence_thread(*, new_handlers: bool = False) -> Iterator[None]:
    """Drop what this thread prints, warns and logs below ERROR, as exporters of torch do.

    A failed export prints the whole graph to standard error; the exception holds the reason. With ``new_handlers``,
    handlers that a library adds to the root logger meanwhile are removed.
    """
    thread, root = threading.get_ident(), logging.getLogger()
    before = list(root.handlers)

    def keep(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.ERROR

    try:
        with (
            _filtered([root, *_handlers()], keep),
            python_warnings.catch_warnings(),
            contextlib.redirect_stdout(_ThreadMute(sys.stdout)),
            contextlib.redirect_stderr(_ThreadMute(sys.stderr)),
        ):
            python_warnings.simplefilter("ignore")
            yield
    finally:
        for handler in [one for one in root.handlers if new_handlers and one not in before]:
            root.removeHandler(handler)


@contextlib.contextmanager
def without_lines(prefix: str) -> Iterator[None]:
    """Drop lines with this prefix that compiled code writes to the standard error of the process.

    All other lines are passed on at the end of the block, which should be short.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            stream.seek(0)
            for line in stream:
                if not line.startswith(prefix.encode()):
                    os.write(2, line)


class _ThreadMute:
    """Stream that drops the text of its own thread and passes on that of others."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._owner = threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._owner:
            return len(text)
        return int(self._stream.write(text) or 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _handlers() -> set[logging.Handler]:
    """Return the handlers of the root logger and of torch's loggers, many of which have their own."""
    loggers = [logger for name, logger in list(logging.root.manager.loggerDict.items()) if name.startswith("torch")]
    own = (logger.handlers for logger in loggers if isinstance(logger, logging.Logger))
    return {handler for group in (logging.root.handlers, *own) for handler in group}


@contextlib.contextmanager
def _filtered(targets: Iterable[logging.Filterer], keep: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    targets = list(targets)
    for target in targets:
        target.addFilter(keep)
    try:
        yield
    finally:
        for target in targets:
            target.removeFilter(keep)
