"""Backends by name. Runtimes are imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, cast

from workbench.core.errors import BackendUnavailable, ConfigError, first_line
from workbench.engine.backends.base import Availability, Backend, Capabilities
from workbench.engine.names import BACKENDS, all_names, third_party, unknown_backend


def get_backend(name: str) -> Backend:
    """Return a backend by name, even if it cannot run here.

    Other packages add backends by an entry point in the group ``workbench.backends``, which names a
    :class:`~workbench.engine.backends.base.Backend`: an object with ``name``, ``capabilities``, ``status``, ``load``.
    Raises ConfigError for an unknown name, and BackendUnavailable if another package's backend cannot be imported or is
    invalid.
    """
    if name in BACKENDS:
        return cast(Backend, importlib.import_module(BACKENDS[name]).BACKEND)
    point = third_party().get(name)
    if point is None:
        raise ConfigError(unknown_backend(name))
    package = point.dist.name if point.dist is not None else "another package"
    try:
        return _checked(point.load(), name, point.value)
    except Exception as error:
        raise BackendUnavailable(
            f"Backend {name!r} of {package} cannot be loaded: {type(error).__name__}: {first_line(error)}. "
            f"Update or remove {package}."
        ) from error


def _checked(backend: Any, name: str, origin: str) -> Backend:
    missing = [part for part in ("name", "capabilities", "status", "load") if not hasattr(backend, part)]
    if missing:
        raise TypeError(f"{origin} is not a valid backend: it has no {', '.join(missing)}")
    if backend.name != name:
        raise TypeError(f"{origin} is named {backend.name!r}, its entry point {name!r}")
    if not isinstance(backend.capabilities, Capabilities):
        raise TypeError(f"{origin} has capabilities of type {type(backend.capabilities).__name__}, not Capabilities")
    return cast(Backend, backend)


def require_backend(name: str) -> Backend:
    """Return a backend that can run here, or raise BackendUnavailable with the reason and the command to install it."""
    backend = get_backend(name)
    status = backend.status()
    if not status.available:
        raise BackendUnavailable(f"Backend {name!r} cannot run here: {status.reason}. {status.how or ''}".strip())
    return backend


def runs_module(name: str) -> bool:
    """Return whether a backend runs the torch module."""
    return "module" in get_backend(name).capabilities.formats


def takes_onnx(name: str) -> bool:
    """Return whether a backend runs an ONNX file; ``auto`` has candidates that do."""
    return name == "auto" or "onnx" in get_backend(name).capabilities.formats


def capabilities_of(name: str) -> Capabilities | None:
    """Return the capabilities of a backend, None if it cannot be imported."""
    try:
        return get_backend(name).capabilities
    except BackendUnavailable:
        return None


def backend_status(names: Sequence[str] | None = None) -> list[Availability]:
    """Return the availability of backends (default: all); this imports each runtime."""
    return [_status(name) for name in (all_names() if names is None else names)]


def _status(name: str) -> Availability:
    try:
        return get_backend(name).status()
    except Exception as error:
        if name in BACKENDS:
            raise
        # Another package's code must not hide the other backends.
        return Availability(name, False, reason=first_line(error).rstrip("."))
