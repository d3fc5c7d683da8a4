"""The names of the backends, built in and from other packages. Imports none of them."""

from __future__ import annotations

import importlib.metadata

from workbench.core.errors import unknown_name

GROUP = "workbench.backends"
"""The entry point group by which another package offers a backend: its name, and where its backend object is."""

BACKENDS = {
    "torch-eager": "workbench.engine.backends.torch.eager",
    "onnxruntime": "workbench.engine.backends.onnxruntime.backend",
    "openvino": "workbench.engine.backends.openvino.backend",
    "torch-compile": "workbench.engine.backends.torch.compile",
    "torchscript": "workbench.engine.backends.torch.torchscript",
    "aot-inductor": "workbench.engine.backends.torch.aot_inductor",
}
"""Name of each built-in backend and the module that holds its ``BACKEND``."""

DEFAULT_BACKENDS = ("torch-eager", "onnxruntime", "openvino")
"""What is tried where nobody names a backend: they load in about a second. The others run when they are named."""

MODULE_BACKENDS = ("torch-eager", "torch-compile", "torchscript", "aot-inductor")
"""Built-in backends that run the torch module, and have no use for an ONNX file."""


def third_party() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the backends that other packages offer; a built-in name stays ours."""
    found = importlib.metadata.entry_points(group=GROUP)
    return {point.name: point for point in found if point.name not in BACKENDS}


def is_backend(name: str) -> bool:
    """Return whether there is a backend of that name; whether it runs here is another question."""
    return name in BACKENDS or name in third_party()


def all_names() -> tuple[str, ...]:
    """Return the name of every backend, the built-in ones first."""
    return (*BACKENDS, *sorted(third_party()))


def unknown_backend(name: object) -> str:
    """Return the message for a name that no backend has."""
    return unknown_name("backend", name, all_names())
