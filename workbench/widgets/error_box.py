"""Callbacks that cannot fail in silence: ipywidgets drops their exceptions, the guard keeps and shows them."""

from __future__ import annotations

import functools
import html
import traceback
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from workbench.core.errors import WorkbenchError


class Guard:
    """Keeps the last error of a panel and shows it as a sentence.

    Examples
    --------
    >>> guard = Guard()                                   # doctest: +SKIP
    >>> button.on_click(guard(start))                     # doctest: +SKIP
    >>> guard.error                                       # doctest: +SKIP
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.details: str = ""
        self.view = widgets.HTML("", layout=widgets.Layout(display="none"))
        self.view.add_class("wb-error")

    def __call__(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Wrap ``callback``: what it raises is kept and shown, and never leaves it."""

        @functools.wraps(callback)
        def guarded(*args: Any, **options: Any) -> None:
            try:
                callback(*args, **options)
            except Exception as error:  # noqa: BLE001 - the last place that can tell the person
                self.keep(error)

        return guarded

    def keep(self, error: BaseException) -> None:
        """Store ``error`` and show it; ``details`` has the stack trace for a bug report."""
        self.error = error
        self.details = "".join(traceback.format_exception(error))
        self.view.value = f"<b>{html.escape(_headline(error))}</b> {html.escape(_sentence(error))}"
        self.view.layout.display = ""

    def clear(self) -> None:
        """Forget the last error and hide its message."""
        self.error, self.details = None, ""
        self.view.value = ""
        self.view.layout.display = "none"


def _headline(error: BaseException) -> str:
    return "This cannot run." if isinstance(error, WorkbenchError) else "Something unexpected went wrong."


def _sentence(error: BaseException) -> str:
    if isinstance(error, WorkbenchError):
        return str(error)
    return f"{type(error).__name__}: {error} The panel's .error_details has the stack trace."
