"""Import torchao without its remarks about GPU extensions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from workbench.core.quiet import without_remarks

_LOGGERS = ("torchao", "torchao.ops", "torch.utils._pytree", "root")
_REMARKS = (
    "Failed to load",
    "Skipping import of cpp extensions",
    "is an Enum subclass and is now natively supported",
)


@contextmanager
def quiet_torchao() -> Iterator[None]:
    """Drop the known remarks of torchao for a block."""
    with without_remarks(_LOGGERS, _REMARKS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="must run observer before calling calculate_qparams")
        warnings.filterwarnings("ignore", message="Please use quant_min and quant_max")
        warnings.filterwarnings("ignore", message=".*is deprecated", module=r"torchao\..*")
        yield
