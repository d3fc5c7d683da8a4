"""Import torchao without the remarks it makes about GPU extensions that a CPU build cannot load."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_REMARKS = (
    "Failed to load",
    "Skipping import of cpp extensions",
    "is an Enum subclass and is now natively supported",
)


class _WithoutRemarks(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(remark in text for remark in _REMARKS)


@contextmanager
def quiet_torchao() -> Iterator[None]:
    """Drop the known remarks of torchao while the block runs; everything else is shown."""
    # Filters do not reach child loggers, so they sit on the ones that speak.
    loggers = [logging.getLogger(name) for name in ("torchao", "torchao.ops", "torch.utils._pytree", "root")]
    remarks = _WithoutRemarks()
    for logger in loggers:
        logger.addFilter(remarks)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="must run observer before calling calculate_qparams")
            warnings.filterwarnings("ignore", message="Please use quant_min and quant_max")
            warnings.filterwarnings("ignore", message=".*is deprecated", module=r"torchao\..*")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(remarks)
