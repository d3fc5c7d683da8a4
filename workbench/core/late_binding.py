"""Methods of lower rooms whose code is in upper rooms: the package's face binds them, so that no import goes upward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_LOADERS: dict[str, Callable[[], Callable[..., Any]]] = {}


def bind_late(name: str, load: Callable[[], Callable[..., Any]]) -> None:
    """Bind ``name`` to the function that ``load`` imports and returns on the first call."""
    _LOADERS[name] = load


def call_late(name: str, *args: Any, **options: Any) -> Any:
    """Call the function that was bound to ``name``.

    Examples
    --------
    >>> bind_late("greet", lambda: "Hello, {}".format)
    >>> call_late("greet", "you")
    'Hello, you'
    """
    return _LOADERS[name]()(*args, **options)
