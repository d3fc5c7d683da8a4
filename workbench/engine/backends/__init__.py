"""The runtimes, by name. Each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import cast

from workbench.core.errors import BackendUnavailable, ConfigError, unknown_name
from workbench.engine.backends.base import Availability, Backend

BACKENDS = {
    "torch-eager": "workbench.engine.backends.torch_eager",
    "onnxruntime": "workbench.engine.backends.onnxruntime_",
    "openvino": "workbench.engine.backends.openvino_",
}
"""Name of each backend and the module that holds its ``BACKEND``."""


def get_backend(name: str) -> Backend:
    """Return a backend by name, whether it can run here or not.

    Raises
    ------
    ConfigError
        If there is no backend of that name.
    """
    if name not in BACKENDS:
        raise ConfigError(unknown_name("backend", name, BACKENDS))
    return cast(Backend, importlib.import_module(BACKENDS[name]).BACKEND)


def require_backend(name: str) -> Backend:
    """Return a backend that can run here.

    Raises
    ------
    BackendUnavailable
        With the reason and the command that would get it.
    """
    backend = get_backend(name)
    status = backend.status()
    if not status.available:
        raise BackendUnavailable(f"Backend {name!r} cannot run here: {status.reason}. {status.how or ''}".strip())
    return backend


def backend_status() -> list[Availability]:
    """Return the state of every backend here; importing each runtime is part of the check."""
    return [get_backend(name).status() for name in BACKENDS]
