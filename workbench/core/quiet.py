"""Drop known remarks of libraries; everything else is shown."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def without_remarks(loggers: Sequence[str], remarks: Sequence[str]) -> Iterator[None]:
    """Keep ``loggers`` from saying anything that holds one of ``remarks`` while the block runs.

    Filters do not reach child loggers: name the ones that speak.
    """
    kept = [logging.getLogger(name) for name in loggers]

    def other(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(remark in text for remark in remarks)

    for logger in kept:
        logger.addFilter(other)
    try:
        yield
    finally:
        for logger in kept:
            logger.removeFilter(other)


@contextmanager
def without_lines(prefix: str) -> Iterator[None]:
    """Drop what compiled code writes to the process's standard error in lines that begin with ``prefix``.

    All else that was written meanwhile is passed on at the end of the block, which should be short.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # no standard error at all, as under pythonw
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
