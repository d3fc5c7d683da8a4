"""Widgets for single options: a control by type, and parsing of its text."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from workbench.core.config import Config, members_of
from workbench.core.errors import ConfigError

_WORDS = {None: "not set", True: "yes", False: "no"}
_UNIT_WORDS = {"s": "seconds"}
_STYLE = {"description_width": "120px"}


@dataclasses.dataclass(frozen=True)
class Field:
    """A control for one option.

    ``read`` returns its value or raises ConfigError, ``write`` shows another one, ``listen`` registers a callback for
    edits.
    """

    option: dataclasses.Field[Any]
    control: widgets.Widget
    read: Callable[[], Any]
    write: Callable[[Any], None]
    listen: Callable[[Callable[[], None]], None]

    @property
    def name(self) -> str:
        """The name of the option."""
        return self.option.name

    @property
    def advanced(self) -> bool:
        """True if the option is among the further settings."""
        return bool(option_meta(self.option).get("advanced"))


def make_field(owner: type[Config], field: dataclasses.Field[Any], value: Any) -> Field:
    """Build the control for one dataclass field of ``owner``, showing ``value``.

    Fixed choices become a dropdown, flags a checkbox, plain numbers a number box; optional numbers, lists and
    everything else become text, where ``none`` or an empty box stands for None.
    """
    hint = typing.get_type_hints(owner)[field.name]
    meta = option_meta(field)
    words = {
        "description": label_for(field),
        "tooltip": _tooltip(meta, value),
        "style": _STYLE,
        "layout": widgets.Layout(width="auto", max_width="300px"),
    }
    choices = _choices(hint, meta)
    if choices:
        control = widgets.Dropdown(options=[(_word(c), c) for c in choices], value=value, **words)
    elif hint is bool:
        control = widgets.Checkbox(value=value, indent=True, **words)
    elif hint is int:
        control = widgets.IntText(value=value, **words)
    elif hint is float:
        control = widgets.FloatText(value=value, step=_step(meta), **words)
    else:
        return _text_field(owner, field, hint, value, words)

    def write(new: Any) -> None:
        control.value = new

    return Field(field, control, lambda: control.value, write, listener(control))


def _text_field(
    owner: type[Config], field: dataclasses.Field[Any], hint: Any, value: Any, words: Mapping[str, Any]
) -> Field:
    control = widgets.Text(value=_as_text(value), placeholder=_placeholder(hint), continuous_update=False, **words)

    def read() -> Any:
        return parse_text(control.value, hint, f"{owner.__name__}.{field.name}")

    def write(new: Any) -> None:
        control.value = _as_text(new)

    return Field(field, control, read, write, listener(control))


def listener(control: widgets.Widget) -> Callable[[Callable[[], None]], None]:
    """Return a function that registers a callback, without arguments, for changes of the control's value."""
    return lambda callback: control.observe(lambda _change: callback(), names="value")


def option_meta(field: dataclasses.Field[Any]) -> Mapping[str, Any]:
    """Return the metadata of :func:`workbench.core.config.option` for a field, or an empty mapping."""
    meta: Mapping[str, Any] = field.metadata.get("option", {})
    return meta


def label_for(field: dataclasses.Field[Any]) -> str:
    """Return the option's label, with its unit unless the name ends in it."""
    unit = option_meta(field).get("unit")
    words = field.name.removesuffix(f"_{unit}").replace("_", " ")
    has_unit = not unit or unit in words.split() or _UNIT_WORDS.get(unit) in words.split()
    return words if has_unit else f"{words} ({unit})"


def parse_text(text: str, hint: Any, where: str) -> Any:
    """Parse the text of a control as a value of type ``hint``.

    Raises
    ------
    ConfigError
        If the text is not valid for any allowed type; the message starts with ``where``.

    Examples
    --------
    >>> parse_text("1, 8, 32", tuple[int, ...], "Run.batch_sizes")
    (1, 8, 32)
    """
    text = text.strip()
    members = members_of(hint)
    if type(None) in members and text.lower() in ("", "none", "not set"):
        return None
    for member in members:
        if typing.get_origin(member) is tuple or member is tuple:
            inner = (typing.get_args(member) or (str,))[0]
            return tuple(parse_text(part, inner, where) for part in text.split(",") if part.strip())
    for member in members:
        if member in (int, float):
            try:
                return member(text)
            except ValueError:
                continue
    if str in members or Any in members:
        return text
    raise ConfigError(f"{where} must be {_kind_words(members)}, got {text!r}.")


def _choices(hint: Any, meta: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the allowed values of an option with fixed choices, or an empty tuple."""
    members = members_of(hint)
    choices: list[Any] = list(meta.get("choices") or ())
    if choices:
        return (*choices, *([None] if type(None) in members and None not in choices else []))
    if hint is bool:
        return ()
    for member in members:
        if typing.get_origin(member) is typing.Literal:
            choices += typing.get_args(member)
        elif member is bool:
            choices += [True, False]
        elif member is type(None):
            choices.append(None)
        else:
            return ()
    return tuple(choices)


def _step(meta: Mapping[str, Any]) -> float:
    """Return the step of a number box: 0.05 inside unit ranges, else 1."""
    low = meta.get("minimum") if meta.get("minimum") is not None else meta.get("above")
    high = meta.get("maximum") if meta.get("maximum") is not None else meta.get("below")
    return 0.05 if low is not None and high is not None and high - low <= 1 else 1.0


def _tooltip(meta: Mapping[str, Any], default: Any) -> str:
    bounds = [
        f"{word} {meta[key]:g}"
        for key, word in (("minimum", "at least"), ("above", "above"), ("maximum", "at most"), ("below", "below"))
        if meta.get(key) is not None
    ]
    parts = [str(meta.get("help", "")).rstrip("."), "; ".join(bounds), f"default {_word(default)}"]
    return ". ".join(map(sentence_case, filter(None, parts))) + "."


def sentence_case(text: str) -> str:
    """Return a text with its first letter in upper case, and the rest as it is."""
    return text[:1].upper() + text[1:]


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, tuple):
        return _as_text(value) or "none"
    return str(value)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return str(value)


def _placeholder(hint: Any) -> str:
    members = members_of(hint)
    if type(None) in members:
        return "not set"
    if any(typing.get_origin(m) is tuple or m is tuple for m in members):
        return "a, b, c"
    return ""


def _kind_words(members: tuple[Any, ...]) -> str:
    names = {int: "a whole number", float: "a number", type(None): "empty"}
    return " or ".join(names.get(m, getattr(m, "__name__", str(m))) for m in members)
