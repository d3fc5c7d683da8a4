"""Drop known remarks that a library logs while it is imported; everything else is shown."""

from __future__ import annotations

import logging
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
