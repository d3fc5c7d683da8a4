"""Keep the exporters' chatter off the user's screen: in this thread only, and nothing else's."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any


class _ThreadMute:
    """A stream that drops what its own thread writes and passes on what others write."""

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
    # torch gives many of its loggers a handler of their own.
    loggers = [logger for name, logger in list(logging.root.manager.loggerDict.items()) if name.startswith("torch")]
    own = (logger.handlers for logger in loggers if isinstance(logger, logging.Logger))
    return {handler for group in (logging.root.handlers, *own) for handler in group}


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Drop what torch's exporters print, warn and log below ERROR in this thread while the block runs.

    A failed export prints the whole graph to standard error; the reason is in the exception that we raise.
    """
    owner = threading.get_ident()
    handlers = _handlers()

    def keep(record: logging.LogRecord) -> bool:
        return record.thread != owner or record.levelno >= logging.ERROR

    for handler in handlers:
        handler.addFilter(keep)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(_ThreadMute(sys.stdout)),
            contextlib.redirect_stderr(_ThreadMute(sys.stderr)),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)
