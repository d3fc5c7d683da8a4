"""Hash the code that a training depends on, so that edited code invalidates cached results."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_LIBRARIES = ("torch", "builtins")


def code_digest(task: Task) -> str:
    """Return the sha256 (hex) of the steps' code and the task's: loss, metric, augment, build and layers.

    Hashes whole files, or the byte code of functions defined in a notebook. Imports of these files are not followed:
    change the task's ``version`` if they matter.
    """
    total = hashlib.sha256(_steps_digest())
    for part in _parts(task):
        total.update(part.encode("utf-8", "surrogateescape"))
        total.update(b"\0")
    return total.hexdigest()


@functools.cache
def _steps_digest() -> bytes:
    total = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / "compress").rglob("*.py")):
        total.update(path.read_bytes())
    return total.digest()


def _parts(task: Task) -> Iterator[str]:
    for role in ("build", "loss", "metric", "augment"):
        function = getattr(task, role)
        yield f"{role} {_source(function)}" if callable(function) else role
    kinds = {type(part) for part in task.model().modules()}
    yield from sorted({_source(kind) for kind in kinds if kind.__module__.partition(".")[0] not in _LIBRARIES})


def _source(thing: Callable[..., Any]) -> str:
    """Return the text of the file that defines a function or class, or its byte code if there is no file."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    thing = inspect.unwrap(thing)
    name = getattr(thing, "__module__", None) or type(thing).__module__
    file = None if name == "__main__" else getattr(sys.modules.get(name), "__file__", None)
    if file is not None and Path(file).suffix == ".py" and Path(file).is_file():
        return Path(file).read_text(encoding="utf-8", errors="surrogateescape")
    return "".join(_codes(thing)) or f"{name}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _codes(thing: Any) -> Iterator[str]:
    code = getattr(thing, "__code__", None)
    if isinstance(code, CodeType):
        yield from _code(code)
    elif inspect.isclass(thing):
        for _, method in sorted(inspect.getmembers(thing, inspect.isfunction)):
            yield from _code(method.__code__)
    elif callable(thing) and not inspect.isbuiltin(thing):
        yield from _codes(type(thing))


def _code(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:  # the order of a set differs between processes
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
