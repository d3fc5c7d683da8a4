"""Parameters of a notebook: defaults of the cell tagged ``parameters``, and checks of given values.

papermill only warns of an unknown parameter; here it is an error before work starts.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.errors import ConfigError, unknown_name

TAG = "parameters"
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}


def find_notebook(name: str) -> Path:
    """Return the path of one of the project's notebooks, in a checkout or an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "_notebooks", package.parent / "notebooks")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(unknown_name("notebook", name, [p.name for folder in folders for p in folder.glob("*.ipynb")]))


def read_parameters(notebook: str | Path) -> dict[str, Any]:
    """Return names and default values of the cell tagged ``parameters``, without running it.

    Raises
    ------
    ConfigError
        If there is no such cell, or it contains more than assignments of literals.
    """
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if TAG in c.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise ConfigError(f"{notebook} has no cell tagged {TAG!r}.")
    values = {}
    for line in ast.parse("".join(tagged[0]["source"])).body:
        if not isinstance(line, ast.Assign) or not isinstance(line.targets[0], ast.Name):
            raise ConfigError(f"{notebook}: the {TAG} cell may only assign literals, got {ast.unparse(line)!r}.")
        try:
            values[line.targets[0].id] = ast.literal_eval(line.value)
        except ValueError:
            raise ConfigError(f"{notebook}: {ast.unparse(line)!r} is not a literal.") from None
    return values


def check_parameters(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` in the types of ``defaults``; a shell's text is parsed as that type, None is the default.

    Raises
    ------
    ConfigError
        If a name is unknown or a value has another type.

    Examples
    --------
    >>> check_parameters({"batch_sizes": "1,8", "seed": "3"}, {"batch_sizes": [32], "seed": 0})
    {'batch_sizes': [1, 8], 'seed': 3}
    """
    for name in given:
        if name not in defaults:
            raise ConfigError(unknown_name("parameter", name, defaults))
    return {
        name: defaults[name] if value is None else _checked(name, value, defaults[name])
        for name, value in given.items()
    }


def _checked(name: str, value: Any, default: Any) -> Any:
    if isinstance(value, str) and not isinstance(default, str):
        value = _parsed(value, default)
    if isinstance(default, list) and isinstance(value, Sequence) and not isinstance(value, str):
        return [_checked(name, item, default[0] if default else "") for item in value]
    if isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float) or (isinstance(default, int) and name.endswith("_s")):
        fits = isinstance(value, int | float)
    elif isinstance(default, int) and isinstance(value, float) and value.is_integer():
        fits, value = True, int(value)
    else:
        fits = isinstance(value, type(default))
    if not fits:
        kind = _TYPES.get(type(default), type(default).__name__)
        raise ConfigError(
            f"Parameter {name!r} must be {kind}, such as {default!r}; got {value!r} ({type(value).__name__})."
        )
    return value


def _parsed(text: str, default: Any) -> Any:
    """Parse a shell's text as the type of ``default``; text that does not fit stays text."""
    plain = text.strip()
    if isinstance(default, bool):
        return _BOOLEANS.get(plain.lower(), text)
    if isinstance(default, list):
        inner = plain[1:-1] if plain[:1] in "[(" and plain[-1:] in "])" and plain else plain
        return [item.strip().strip("'\"") for item in inner.split(",") if item.strip()]
    try:
        return ast.literal_eval(plain)
    except (ValueError, SyntaxError):
        return text
