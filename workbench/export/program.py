"""Trace a module into an exported program whose batch may be of any size, or say why that fails."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn


def export_program(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> torch.export.ExportedProgram:
    """Return the program of ``module``; ``shapes`` are the dynamic shapes of the inputs, None for fixed ones.

    Where running the module with stand-ins for its inputs makes the batch a constant (``len(x)`` must give a plain
    number there), the module's bytecode is followed instead, which keeps such a length open. Raises what
    ``torch.export.export`` raised for the first way if neither works.
    """
    with _named_keywords(module, kwargs):
        return _exported(module, args, kwargs, shapes)


def _exported(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        if shapes is None or "specialized" not in str(error):
            raise
        try:
            with _quiet_guards():
                return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=True)
        except Exception:  # noqa: BLE001 - the first way's answer names the line of the user's code
            raise error from None


@contextlib.contextmanager
def _named_keywords(module: nn.Module, kwargs: dict[str, Any]) -> Iterator[None]:
    """Give a ``forward(*args, **kwargs)`` the names of its inputs: torch's exporter takes no dynamic shape without."""
    parameters = inspect.signature(module.forward).parameters
    if not kwargs or all(found.kind is not inspect.Parameter.VAR_KEYWORD for found in parameters.values()):
        yield
        return
    before, whole = vars(module).get("forward"), module.forward

    def forward(**given: Any) -> Any:
        return whole(**given)

    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs]
    forward.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


@contextlib.contextmanager
def _quiet_guards() -> Iterator[None]:
    """Drop the pages that torch logs in this thread where following the bytecode fails: the first error is told."""
    logger, owner = logging.getLogger("torch._guards"), threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        return record.thread != owner

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def reason_of(error: BaseException, *, otherwise: str = "run it with the backend torch-eager") -> str:
    """Return one readable line for an exporter's exception, which may be pages long.

    ``otherwise`` is what a user may do who cannot change the module.
    """
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause) or str(error)
    kind = type(cause).__name__
    if "data-dependent" in text or "DataDependent" in kind:
        place = re.search(r'File "[^"]*?([^"/\\]+)", line (\d+), in (\w+)\n\s*(\S.*)', text)
        where = f" ({place[1]}, line {place[2]}: `{place[4].strip()}`)" if place else ""
        return (
            f"its code branches on the value of a tensor{where}. Use torch.where or torch.cond there; where the tensor "
            f"only holds a size, such as a padding, use a Python number; or {otherwise}."
        )
    missing = re.search(r"OpOverload\(op='([^']+)'", text)
    if missing:
        return f"ONNX has no translation for its operator {missing[1]}. Replace that operator, or {otherwise}."
    if "specialized" in text or "ConstraintViolation" in text or "constraints" in text.lower():
        return "its code turns the batch size into a constant. Take it from x.shape there to keep it open."
    line = next((part.strip() for part in text.splitlines() if part.strip()), kind)
    return f"{kind}: {line[:300].rstrip('.')}. Change the code there, or {otherwise}."


def layer_of_node(node: fx.Node) -> str:
    """Return the module that a node of a captured graph came from, empty where it does not say."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(path) for path, _ in stack.values()]
    return names[-1].removeprefix("L['self'].").removeprefix("L__self___") if names else ""
