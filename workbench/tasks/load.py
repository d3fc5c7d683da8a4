"""Load tasks, functions and models by name, by file and function, or by module and function."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
from torch import nn

from workbench.core.checks import given
from workbench.core.errors import TaskError, did_you_mean
from workbench.core.untrusted import require_line
from workbench.tasks.builtin import digits, digits_vit
from workbench.tasks.module import prepare_module
from workbench.tasks.names import BUILTIN_NAMES
from workbench.tasks.sentences import minilm
from workbench.tasks.task import Task

BUILTIN = dict(zip(BUILTIN_NAMES, (digits, digits_vit, minilm), strict=True))
_PLACES = "'path/to/file.py:function' or 'package.module:function'"
_FORMS = f"Give {', '.join(map(repr, BUILTIN))}, {_PLACES}."


def load_task(spec: str | Path | Task | Callable[[], Task]) -> Task:
    """Return the task that ``spec`` names, with ``reference`` set if another process can load it by the same name.

    Parameters
    ----------
    spec
        A Task, a function that returns one, ``"digits"``, ``"digits_vit"``, ``"minilm"``,
        ``"path/to/file.py:function"`` or ``"package.module:function"``. The function is called without arguments.

    Raises
    ------
    TaskError
        If the file, module or function does not exist, fails, or returns anything but a Task.

    Examples
    --------
    >>> load_task("digits").name
    'digits'
    """
    if isinstance(spec, Task):
        return spec
    if not isinstance(spec, str | Path) and not callable(spec):
        raise TaskError(f"A task must be a Task or name one, got {given(spec)}. {_FORMS}")
    if callable(spec):
        return _make_task(spec, getattr(spec, "__name__", repr(spec)))
    text = str(spec).strip()
    if text in BUILTIN:
        return _make_task(BUILTIN[text], text)
    function, reference = _resolve(text, "task", tuple(BUILTIN), _FORMS)
    task = _make_task(function, text)
    task.reference = reference
    return task


def load_function(reference: str) -> Callable[..., Any]:
    """Return the function ``"path/to/file.py:function"`` or ``"package.module:function"``, or raise TaskError."""
    return _resolve(reference.strip(), "function", (), f"Give {_PLACES}.")[0]


def load_module(reference: str) -> nn.Module:
    """Return the module that a function of no arguments builds, on the CPU, float32, in eval mode, or raise TaskError.

    ``reference`` is ``"path/to/file.py:function"`` or ``"package.module:function"``.
    """
    function, _ = _resolve(reference.strip(), "model", (), f"Give {_PLACES}.")
    name = f"Model {reference!r}"
    return prepare_module(_made(function, name), maker=name, whose=name)


def _resolve(text: str, kind: str, builtin: Sequence[str], forms: str) -> tuple[Callable[..., Any], str]:
    """Return the function named by ``text``, and the reference by which another process loads it."""
    require_line(f"The name of a {kind}", text, error=TaskError, most=4096)
    place, colon, function = text.rpartition(":")
    if not colon or "/" in function or "\\" in function:
        hint = f" Name the function too: {text}:function." if text.endswith(".py") else did_you_mean(text, builtin)
        raise TaskError(f"Unknown {kind} {text!r}.{hint} {forms}")
    if not place or not function.isidentifier():
        raise TaskError(f"{kind.capitalize()} {text!r} does not name a function. {forms}")
    if place.endswith(".py") or "/" in place or "\\" in place:
        path = Path(place).expanduser().resolve()
        return _function(_from_file(path, kind), function, place), f"{path}:{function}"
    return _function(_from_module(place), function, place), text


def _make_task(function: Callable[[], Any], name: str) -> Task:
    task = _made(function, f"Task {name!r}")
    if not isinstance(task, Task):
        raise TaskError(f"Task {name!r} must return a workbench Task, got {type(task).__name__}.")
    return task


def _made(function: Callable[[], Any], name: str) -> Any:
    try:
        return function()
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"{name} failed while it was made: {type(error).__name__}: {error}") from error


def _function(module: ModuleType, name: str, place: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
    own = [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    ]
    hint = did_you_mean(name, own)
    problem = "is not a function" if function is not None else "does not exist"
    raise TaskError(f"{place}: {name!r} {problem}.{hint} Functions of that file: {', '.join(own) or 'none'}.")


def _from_file(path: Path, kind: str) -> ModuleType:
    if not path.is_file():
        siblings = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        hint = did_you_mean(str(path), siblings) if path.parent.is_dir() else f" Nor does the folder {path.parent}."
        raise TaskError(f"The {kind} file {path} does not exist.{hint}")
    # one module per file and content: an edited file is read again, an unedited one keeps its classes
    digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()[:12]
    name = f"workbench_task_{path.stem if path.stem.isidentifier() else 'file'}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TaskError(f"A {kind} file must end in .py, got {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before, path_before = set(sys.modules), list(sys.path)
    # like a script, a task file may import its siblings; later imports (inside build) find them last
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise TaskError(f"The {kind} file {path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    # other processes cannot import these by name, so their functions are pickled by value
    cloudpickle.register_pickle_by_value(module)
    for other in sorted(set(sys.modules) - before):
        if _needs_siblings(other, path_before):
            cloudpickle.register_pickle_by_value(sys.modules[other])
    return module


def _needs_siblings(name: str, path: list[str]) -> bool:
    """Return True if a module imported by a task file is missing from the usual search path."""
    file = getattr(sys.modules[name], "__file__", None)
    if not file or not file.endswith(".py"):
        return False
    package = name.partition(".")[0]
    usual = importlib.machinery.PathFinder.find_spec(package, path)
    origin = getattr(sys.modules.get(package), "__file__", None)
    return usual is None or (origin is not None and usual.origin != origin)


def _from_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:  # unlike python -m, a console script does not search the current folder
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise TaskError(
                f"The module {missing!r} is not on Python's path. Install it, or give the file: "
                "path/to/file.py:function."
            ) from error
        raise TaskError(f"The module {name} needs {missing!r}, which is not installed.") from error
    except Exception as error:
        raise TaskError(f"The module {name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
