"""PassThrough: stand-in of a removed block, with its signature and output structure."""

from __future__ import annotations

from typing import Any

from torch import nn

Form = tuple[Any, ...]
"""Structure of outputs made of inputs, in nested tuples for JSON.

``("input", 0, "x")`` is ``args[0]["x"]``, ``("input", "hidden")`` is ``kwargs["hidden"]``; ``("constant", None)`` is a
plain value; ``("tuple", form, ...)``, ``("list", form, ...)`` and ``("dict", (key, form), ...)`` hold forms.
"""

FIRST_INPUT: Form = ("input", 0)
PLAIN = (bool, int, float, str, type(None))


class PassThrough(nn.Module):
    """Return inputs in the structure ``outputs``, a valid :data:`Form`, of a removed block's outputs.

    Examples
    --------
    >>> PassThrough(("tuple", ("input", 0), ("constant", None)))("hidden", mask="unused")
    ('hidden', None)
    """

    def __init__(self, outputs: Form = FIRST_INPUT) -> None:
        super().__init__()
        _check(outputs)
        self.outputs = outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the inputs that ``outputs`` names."""
        return _made(self.outputs, args, kwargs)

    def extra_repr(self) -> str:
        """Return the structure of the outputs."""
        return repr(self.outputs)


def _made(form: Form, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    kind, *parts = form
    if kind == "constant":
        return parts[0]
    if kind == "input":
        place, *path = parts
        value = args[place] if isinstance(place, int) else kwargs[place]
        for key in path:
            value = value[key]
        return value
    if kind == "dict":
        return {key: _made(part, args, kwargs) for key, part in parts}
    made = [_made(part, args, kwargs) for part in parts]
    return tuple(made) if kind == "tuple" else made


def _check(form: object) -> None:
    if not isinstance(form, tuple) or not form:
        raise ValueError(f"PassThrough.outputs must hold tuples that begin with a kind, got {form!r}")
    kind, *parts = form
    if kind == "constant" and len(parts) == 1 and isinstance(parts[0], PLAIN):
        return
    if kind == "input" and parts and all(_is_key(part) for part in parts):
        return
    if kind in ("tuple", "list"):
        for part in parts:
            _check(part)
    elif kind == "dict" and all(isinstance(part, tuple) and len(part) == 2 and _is_key(part[0]) for part in parts):
        for _, part in parts:
            _check(part)
    else:
        raise ValueError(f"PassThrough.outputs: {form!r} is not a valid form")


def _is_key(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)
