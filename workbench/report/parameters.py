"""A notebook's tagged ``parameters`` cell: its defaults, and given values checked against them.

papermill itself only warns about an unknown parameter; here it is an error before work starts.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.errors import ConfigError, unknown_name

TAG = "parameters"
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


def find_notebook(name: str) -> Path:
    """Return the path of one of the project's notebooks, in a checkout or in an installed wheel.

    Raises
    ------
    ConfigError
        If there is no notebook of that name.
    """
    package = Path(__file__).resolve().parents[1]
    folders = (package / "_notebooks", package.parent / "notebooks")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    known = [p.name for folder in folders for p in folder.glob("*.ipynb")]
    raise ConfigError(unknown_name("notebook", name, known))


def read_parameters(notebook: str | Path) -> dict[str, Any]:
    """Return the names and default values of the cell tagged ``parameters``, without running it.

    Raises
    ------
    ConfigError
        If there is no such cell, or it holds more than assignments of literals.
    """
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if TAG in c.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise ConfigError(f"{notebook} has no cell tagged {TAG!r}.")
    values = {}
    for line in ast.parse("".join(tagged[0]["source"])).body:
        if not isinstance(line, ast.Assign) or not isinstance(line.targets[0], ast.Name):
            raise ConfigError(f"{notebook}: the {TAG} cell may only assign literals, found {ast.unparse(line)!r}.")
        try:
            values[line.targets[0].id] = ast.literal_eval(line.value)
        except ValueError:
            raise ConfigError(f"{notebook}: {ast.unparse(line)!r} is no literal.") from None
    return values


def check_parameters(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` in the types of ``defaults``; texts, as a shell gives them, are read as that type.

    ``None`` takes the default.

    Raises
    ------
    ConfigError
        For an unknown name, with the nearest one, or a value of another type.

    Examples
    --------
    >>> check_parameters({"batch_sizes": "1,8", "seed": "3"}, {"batch_sizes": [32], "seed": 0})
    {'batch_sizes': [1, 8], 'seed': 3}
    """
    for name in given:
        if name not in defaults:
            raise ConfigError(unknown_name("parameter", name, defaults))
    return {
        name: defaults[name] if value is None else _fitted(name, value, defaults[name]) for name, value in given.items()
    }


def _fitted(name: str, value: Any, default: Any) -> Any:
    if isinstance(value, str) and not isinstance(default, str):
        value = _read(value, default)
    if isinstance(default, list) and isinstance(value, Sequence) and not isinstance(value, str):
        return [_fitted(name, item, _like(default, name)) for item in value]
    whole = isinstance(value, float) and value.is_integer()
    if isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float) or (isinstance(default, int) and name.endswith("_s")):
        fits, value = isinstance(value, int | float), value
    elif isinstance(default, int) and whole:
        fits, value = True, int(value)
    else:
        fits = isinstance(value, type(default))
    if not fits:
        raise ConfigError(
            f"Parameter {name!r} must be {_words(default)}, like {default!r}; got {value!r} ({type(value).__name__})."
        )
    return value


def _like(default: list[Any], name: str) -> Any:
    """Return an example of a list's items: its first one, or a text for a list that is empty by default."""
    return default[0] if default else ""


def _read(text: str, default: Any) -> Any:
    """Read a shell's text as the type of ``default``; text that does not fit stays text."""
    plain = text.strip()
    if isinstance(default, bool):
        return True if plain.lower() in _TRUE else False if plain.lower() in _FALSE else text
    if isinstance(default, list):
        inner = plain[1:-1] if plain[:1] in "[(" and plain[-1:] in "])" and plain else plain
        return [item.strip().strip("'\"") for item in inner.split(",") if item.strip()]
    try:
        return ast.literal_eval(plain)
    except (ValueError, SyntaxError):
        return text


def _words(default: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
    return names.get(type(default), type(default).__name__)
