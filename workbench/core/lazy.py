"""Names that are imported on first use, and what is said where an install lacks the package that they need."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import lazy_loader

from workbench.core.errors import PackageMissing, did_you_mean

LAB = frozenset(
    {
        "IPython",
        "cloudpickle",
        "filelock",
        "ipykernel",
        "ipywidgets",
        "matplotlib",
        "nbconvert",
        "nbformat",
        "nvitop",
        "onnxscript",
        "optuna",
        "pandas",
        "papermill",
        "pynvml",
        "safetensors",
        "sqlalchemy",
        "torch",
        "torch_pruning",
        "torchao",
        "traitlets",
    }
)
"""Modules that come with the extra ``lab``: what makes, compresses and compares models."""

RUNTIME = frozenset({"onnx", "onnxruntime", "openvino"})
"""Modules that come with the extra ``runtime``: what loads artefacts and runs them."""

LOADGEN = frozenset({"mlperf_loadgen"})
"""Modules that come with the extra ``loadgen``: MLPerf's load generator."""

CLUSTER = frozenset({"distributed"})
"""Modules that come with the extra ``cluster``: Dask's scheduler and workers."""

_EXTRAS = {"lab": LAB, "runtime": RUNTIME, "loadgen": LOADGEN, "cluster": CLUSTER}


def install_command(extra: str) -> str:
    """Return the command that installs one extra of this distribution.

    Examples
    --------
    >>> install_command("lab")
    'pip install "inference-workbench[lab]"'
    """
    return f'pip install "inference-workbench[{extra}]"'


def missing_package(error: ModuleNotFoundError, what: str) -> PackageMissing | None:
    """Return what to say where ``what`` failed for a package of an extra, None where another module is missing."""
    extra = next((extra for extra, modules in _EXTRAS.items() if error.name in modules), None)
    if extra is None:
        return None
    return PackageMissing(
        f"{what} needs the package {error.name!r}, which this install does not have. Get it: {install_command(extra)}",
        name=error.name,
    )


@contextlib.contextmanager
def optional_import(what: str) -> Iterator[None]:
    """Say which command installs what a block lacks, instead of a ModuleNotFoundError.

    Raises
    ------
    PackageMissing
        If a package of an extra is not installed.

    Examples
    --------
    >>> with optional_import("wb.Task"):
    ...     import torch
    """
    try:
        yield
    except ModuleNotFoundError as error:
        found = missing_package(error, what)
        if found is None:
            raise
        raise found from None  # the trace of the import leads nowhere that the reader could mend


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names its ``.pyi`` stub lists.

    Each name is imported on first use.

    Raises
    ------
    PackageMissing
        On use of a name whose module needs a package of an extra that is not installed.
    AttributeError
        On use of a name that the stub does not list.
    """
    load, names, public = lazy_loader.attach_stub(package, file)

    def load_named(name: str) -> Any:
        if name not in public:
            hint = "" if name.startswith("_") else did_you_mean(name, public)
            raise AttributeError(f"module {package!r} has no attribute {name!r}.{hint}")
        with optional_import(f"workbench's {name}"):
            return load(name)

    return load_named, names, public
