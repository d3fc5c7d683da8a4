"""Import names on first use, explain missing packages, and bind methods of lower rooms to code of upper ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import lazy_loader

from workbench.core.errors import PackageMissing, did_you_mean

EXTRAS = {
    "lab": {
        "IPython", "cloudpickle", "filelock", "ipykernel", "ipywidgets", "jinja2", "matplotlib", "nbconvert",
        "nbformat", "nvitop", "onnxscript", "optuna", "pandas", "papermill", "pynvml", "safetensors", "sqlalchemy",
        "torch", "torch_pruning", "torchao", "traitlets",
    },
    "runtime": {"onnx", "onnxruntime", "openvino"},
    "loadgen": {"mlperf_loadgen"},
    "cluster": {"distributed"},
}  # fmt: skip
"""Modules of each extra of this distribution."""


def install_command(extra: str) -> str:
    """Return the command that installs one extra of this distribution."""
    return f'pip install "inference-workbench[{extra}]"'


def missing_package(error: ModuleNotFoundError, what: str) -> PackageMissing | None:
    """Return the error for ``what`` if the missing module belongs to an extra, else None."""
    extra = next((extra for extra, modules in EXTRAS.items() if error.name in modules), None)
    if extra is None:
        return None
    return PackageMissing(
        f"{what} needs the package {error.name!r}, which is not installed. Get it: {install_command(extra)}",
        name=error.name,
    )


@contextlib.contextmanager
def optional_import(what: str) -> Iterator[None]:
    """Replace a ModuleNotFoundError in the block by PackageMissing with the command that installs the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_package(error, what)
        if missing is None:
            raise
        raise missing from None


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names its ``.pyi`` stub lists.

    Each name is imported on first use: PackageMissing if its extra is not installed, AttributeError if not listed.
    """
    load, names, public = lazy_loader.attach_stub(package, file)

    def load_named(name: str) -> Any:
        if name not in public:
            hint = "" if name.startswith("_") else did_you_mean(name, public)
            raise AttributeError(f"module {package!r} has no attribute {name!r}.{hint}")
        with optional_import(f"workbench's {name}"):
            return load(name)

    return load_named, names, public


_LOADERS: dict[str, Callable[[], Callable[..., Any]]] = {}


def bind_late(name: str, load: Callable[[], Callable[..., Any]]) -> None:
    """Bind ``name`` to the function that ``load`` imports and returns on the first call."""
    _LOADERS[name] = load


def call_late(name: str, *args: Any, **options: Any) -> Any:
    """Call the function that was bound to ``name``."""
    return _LOADERS[name]()(*args, **options)
