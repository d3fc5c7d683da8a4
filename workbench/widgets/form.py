"""Forms for frozen configs: one control per option, errors next to it, and the config as ``.value``."""

from __future__ import annotations

import dataclasses
import html
import typing
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar

import ipywidgets as widgets

from workbench.core.config import Config, members_of
from workbench.core.errors import ConfigError
from workbench.widgets.fields import Field, label_for, listener, make_field, option_meta, sentence_case
from workbench.widgets.layout import hint, html_box

C = TypeVar("C", bound=Config)


class Form(Generic[C]):
    """A form built from the option metadata of a frozen config.

    ``start`` is the initial config, or a class for its defaults. ``on_change`` is called without arguments after every
    edit, valid or not. Options in ``hide`` are not shown and keep the value of ``start``. With ``explain``, each
    option's help is below its control, not only a tooltip.

    Examples
    --------
    >>> form = Form(Prune)                     # doctest: +SKIP
    >>> form.view                              # the widget, shown by JupyterLab  # doctest: +SKIP
    >>> form.value                             # doctest: +SKIP
    Prune(ratio=0.5, ...)
    """

    def __init__(
        self,
        start: C | type[C],
        *,
        on_change: Callable[[], None] | None = None,
        hide: Collection[str] = (),
        explain: bool = False,
    ) -> None:
        self._start: C = start() if isinstance(start, type) else start
        self._owner = type(self._start)
        self._listeners = [on_change] if on_change else []
        self._quiet = False
        shown = [f for f in dataclasses.fields(self._owner) if f.name not in hide]  # type: ignore[arg-type]
        self._fields = {f.name: _field(self._owner, f, getattr(self._start, f.name)) for f in shown}
        self._messages = {name: html_box(kind="wb-fault", hidden=True) for name in self._fields}
        self._whole = html_box(kind="wb-fault", hidden=True)
        self._help = {f.name: sentence_case(str(option_meta(f).get("help", ""))) for f in shown} if explain else {}
        self.view = widgets.VBox(self._rows())
        self.view.add_class("wb-form")
        for field in self._fields.values():
            field.listen(self._edited)
        self._check()

    @property
    def value(self) -> C:
        """The config as edited.

        Raises
        ------
        ConfigError
            If an option is invalid; the form shows the same text next to it.
        """
        return self._start.replace(**{name: field.read() for name, field in self._fields.items()})

    @property
    def error(self) -> str | None:
        """The first error of the form, or None."""
        texts = [box.value for box in (*self._messages.values(), self._whole) if box.value]
        return html.unescape(texts[0]) if texts else None

    def control(self, name: str) -> widgets.Widget:
        """Return the control of one option."""
        return self._fields[name].control

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` without arguments after every edit, valid or not."""
        self._listeners.append(callback)

    def set(self, value: C) -> None:
        """Show another config of the same class."""
        self._start, self._quiet = value, True
        try:
            for name, field in self._fields.items():
                field.write(getattr(value, name))
        finally:
            self._quiet = False
        self._check()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.view._repr_mimebundle_(**options)

    def _rows(self) -> list[widgets.Widget]:
        rows = {
            name: widgets.VBox([f.control, *map(hint, filter(None, [self._help.get(name)])), self._messages[name]])
            for name, f in self._fields.items()
        }
        basic = [rows[name] for name, field in self._fields.items() if not field.advanced]
        advanced = [rows[name] for name, field in self._fields.items() if field.advanced]
        if basic and advanced:
            fold = widgets.Accordion([widgets.VBox(advanced)], titles=("More settings",), selected_index=None)
            fold.add_class("wb-more")
            advanced = [fold]
        return [*basic, *advanced, self._whole]

    def _edited(self) -> None:
        if not self._quiet:
            self._check()
            for callback in self._listeners:
                callback()

    def _check(self) -> None:
        """Show each option's error next to it, and errors of their combination below the form."""
        defaults = self._owner()
        for name, field in self._fields.items():
            _show_fault(self._messages[name], self._fault(field, defaults))
        alone = any(box.value for box in self._messages.values())
        fault = ""
        try:
            _ = self.value
        except ConfigError as error:
            fault = "" if alone else str(error)
        _show_fault(self._whole, fault)

    def _fault(self, field: Field, defaults: C) -> str:
        try:
            defaults.replace(**{field.name: field.read()})
        except ConfigError as error:
            text = str(error)
            return text if text.startswith(f"{self._owner.__name__}.{field.name}") else ""
        return ""


def _field(owner: type[Config], field: dataclasses.Field[Any], value: Any) -> Field:
    """Return the control of a field; a nested config gets a nested form."""
    members = members_of(typing.get_type_hints(owner)[field.name])
    inner = next((m for m in members if isinstance(m, type) and issubclass(m, Config)), None)
    if inner is None:
        return make_field(owner, field, value)
    return _nested_field(field, inner, value, optional=type(None) in members)


def _nested_field(field: dataclasses.Field[Any], inner: type[Config], value: Any, *, optional: bool) -> Field:
    form: Form[Any] = Form(inner if value is None else value)
    label = label_for(field)
    switch = widgets.Checkbox(value=value is not None, disabled=not optional, description=label, indent=False)

    def show() -> None:
        form.view.layout.display = "" if switch.value else "none"

    def write(new: Any) -> None:
        switch.value = new is not None
        if new is not None:
            form.set(new)

    def listen(callback: Callable[[], None]) -> None:
        form.on_change(callback)
        listener(switch)(callback)

    def read() -> Any:
        return form.value if switch.value else None

    show()
    listener(switch)(show)
    return Field(field, widgets.VBox([switch, form.view]), read, write, listen)


def _show_fault(box: widgets.HTML, text: str) -> None:
    box.value = html.escape(text)
    box.layout.display = "" if text else "none"
