"""Names of the backends, built in and from other packages. Imports none of them."""

from __future__ import annotations

import importlib.metadata

from workbench.core.errors import unknown_name

GROUP = "workbench.backends"
"""Entry point group by which another package offers a backend: its name and its backend object."""

BACKENDS = {
    "torch-eager": "workbench.engine.backends.torch.eager",
    "onnxruntime": "workbench.engine.backends.onnxruntime.backend",
    "openvino": "workbench.engine.backends.openvino.backend",
    "torch-compile": "workbench.engine.backends.torch.compile",
    "torchscript": "workbench.engine.backends.torch.torchscript",
    "aot-inductor": "workbench.engine.backends.torch.aot_inductor",
}
"""Built-in backends, and the module that holds the ``BACKEND`` of each."""

DEFAULT_BACKENDS = ("torch-eager", "onnxruntime", "openvino")
"""Backends that run by default, because they load in about a second."""

MODULE_BACKENDS = ("torch-eager", "torch-compile", "torchscript", "aot-inductor")
"""Built-in backends that run the torch module instead of an ONNX file."""


def third_party() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the backends of other packages; built-in names cannot be replaced."""
    points = importlib.metadata.entry_points(group=GROUP)
    return {point.name: point for point in points if point.name not in BACKENDS}


def is_backend(name: str) -> bool:
    """Return whether a backend of that name exists, even if it cannot run here."""
    return name in BACKENDS or name in third_party()


def all_names() -> tuple[str, ...]:
    """Return the names of all backends, built-in ones first."""
    return (*BACKENDS, *sorted(third_party()))


def unknown_backend(name: object) -> str:
    return unknown_name("backend", name, all_names())
