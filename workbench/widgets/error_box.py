"""Show exceptions of widget callbacks, which ipywidgets would drop."""

from __future__ import annotations

import functools
import html
import traceback
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from workbench.core.errors import WorkbenchError


class ErrorBox:
    """Store and show the last error of a panel.

    Examples
    --------
    >>> guard = Guard()                                   # doctest: +SKIP
    >>> button.on_click(error_box(start))                 # doctest: +SKIP
    >>> error_box.error                                     # doctest: +SKIP
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.details: str = ""
        self.view = widgets.HTML("", layout=widgets.Layout(display="none"))
        self.view.add_class("wb-error")

    def __call__(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Return ``callback`` with its exceptions stored and shown instead of raised."""

        @functools.wraps(callback)
        def guarded(*args: Any, **options: Any) -> None:
            try:
                callback(*args, **options)
            except Exception as error:  # noqa: BLE001 - ipywidgets would drop it
                self.show(error)

        return guarded

    def show(self, error: BaseException) -> None:
        """Store ``error`` and show it; ``details`` holds the stack trace."""
        self.error = error
        self.details = "".join(traceback.format_exception(error))
        self.view.value = f"<b>{html.escape(_headline(error))}</b> {html.escape(_sentence(error))}"
        self.view.layout.display = ""

    def clear(self) -> None:
        """Clear the last error and hide its message."""
        self.error, self.details = None, ""
        self.view.value = ""
        self.view.layout.display = "none"


def _headline(error: BaseException) -> str:
    return "Cannot run." if isinstance(error, WorkbenchError) else "Unexpected error."


def _sentence(error: BaseException) -> str:
    if isinstance(error, WorkbenchError):
        return str(error)
    return f"{type(error).__name__}: {error} The panel's .error_details has the stack trace."
