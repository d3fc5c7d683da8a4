"""Capture a module as a graph with torch.export, and describe its inputs and outputs by running it."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from workbench.core.errors import ExportError
from workbench.core.quiet import quiet, silence_thread
from workbench.export.io import IOSpec, TensorSpec, describe_tree, input_kind, input_leaves
from workbench.tasks.axes import OpenDims, alternative_sizes, resize
from workbench.tasks.module import copy_module, plain_outputs
from workbench.tasks.trees import Tree, batch_size, call_model, leaves, tree_map


@dataclasses.dataclass(frozen=True)
class Captured:
    """An exported program; ``batch`` is None for a dynamic batch, otherwise ``notes`` hold the reason."""

    program: torch.export.ExportedProgram
    batch: int | None
    notes: tuple[str, ...] = ()


def resize_batch(inputs: Tree, size: int) -> Tree:
    """Return the first ``size`` samples, repeated from the start if there are fewer."""
    index = torch.arange(size) % batch_size(inputs)
    return tree_map(lambda leaf: leaf[index], inputs)


def evaluating(module: nn.Module) -> nn.Module:
    """Return the module in eval mode: itself, or a copy if some part of it is training."""
    if isinstance(module, fx.GraphModule) or not any(m.training for m in module.modules()):
        return module
    return copy_module(module).eval()


def is_quantized(captured: Captured) -> bool:
    """Return whether the graph rounds to integers somewhere."""
    return any("quantize_per" in str(node.target) for node in captured.program.graph.nodes)


def capture_dynamic(module: nn.Module, inputs: Tree, *, dims: OpenDims = ()) -> Captured:
    """Capture with a dynamic batch, and with ``dims``, the open dimensions of each input, dynamic too.

    Raises ExportError, with the reason in one sentence, if the module cannot be captured so.
    """
    # torch.export takes a size of 1 as a constant.
    arguments = dynamic_arguments(resize_batch(inputs, max(2, batch_size(inputs))), dims)
    return Captured(_export(module, *arguments), None)


def capture_fixed(module: nn.Module, inputs: Tree, batch: int, *, reason: str) -> Captured:
    """Capture for one batch size; ``reason`` goes into the notes. Raises ExportError as above."""
    note = f"The batch size is fixed at {batch}: {reason}"
    return Captured(_export(module, *_arguments(resize_batch(inputs, batch)), None), batch, (note,))


def dynamic_arguments(example: Tree, dims: OpenDims) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return positional and keyword arguments for torch.export, and their dynamic shapes.

    All inputs share one batch dimension. Shapes are given by tensor, because a forward may take inputs as ``*args`` or
    ``**kwargs``; each input is a copy, because two that share memory would share a shape.
    """
    example = tree_map(torch.clone, example)
    batch, shapes = torch.export.Dim("batch"), torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for place, leaf in enumerate(leaves(example)):
        # A named dimension would have to be valid from size 0 on, which a convolution's output is not.
        shapes[leaf] = {0: batch, **dict.fromkeys(dims[place] if dims else (), torch.export.Dim.DYNAMIC)}
    return (*_arguments(example), shapes)


def _arguments(inputs: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(input_leaves(inputs)), {})


def _export(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> Any:
    try:
        with torch.no_grad(), silence_thread(), plain_outputs(module):
            return export_program(module, args, kwargs, shapes)
    except Exception as error:
        raise ExportError(f"The module cannot be exported: {reason_of(error)}") from error


def export_program(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> torch.export.ExportedProgram:
    """Return the program of ``module``; ``shapes`` are the dynamic shapes of the inputs, None for fixed ones.

    If the non-strict mode makes the batch a constant (``len(x)`` must give a plain number there), the strict mode is
    tried, which keeps such a length open. If both fail, the error of the non-strict mode is raised.
    """
    with _named_keywords(module, kwargs):
        try:
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            if shapes is None or "specialized" not in str(error):
                raise
            try:
                with quiet(loggers=("torch._guards",)):
                    return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=True)
            except Exception:  # noqa: BLE001 - the first error names the line of the user's code
                raise error from None


@contextlib.contextmanager
def _named_keywords(module: nn.Module, kwargs: dict[str, Any]) -> Iterator[None]:
    """Name the inputs of a ``forward(*args, **kwargs)``, which dynamic shapes require."""
    parameters = inspect.signature(module.forward).parameters
    if not kwargs or all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
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


def reason_of(error: BaseException, *, otherwise: str = "run it with the backend torch-eager") -> str:
    """Return an exporter's exception, which may be pages long, as one readable line.

    ``otherwise`` is the remedy for a user who cannot change the module.
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
            f"its code branches on the value of a tensor{where}. Use torch.where or torch.cond there; if the tensor "
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
    """Return the module that a node of a captured graph comes from, empty if the node has none."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(path) for path, _ in stack.values()]
    return names[-1].removeprefix("L['self'].").removeprefix("L__self___") if names else ""


def describe_io(
    module: nn.Module, inputs: Tree, names: Sequence[str], *, batch: int | None = None, dims: OpenDims = ()
) -> IOSpec:
    """Return the inputs and outputs of a module, from a run on a small batch of ``inputs``.

    With ``dims`` the module runs at other sizes too, which shows the outputs' dimensions that follow them. Raises
    ExportError if an output is not a tensor, or has no leading batch dimension.
    """
    size = batch or 2
    with torch.no_grad():
        outputs = call_model(module, resize_batch(inputs, size))
    try:
        tree, leaves = describe_tree(outputs, torch.is_tensor)
    except TypeError as error:
        raise ExportError(f"The module's outputs cannot be exported: {error}.") from error
    for name, leaf in leaves:
        if leaf.ndim == 0 or leaf.shape[0] != size:
            raise ExportError(
                f"Every output must have the batch as its first dimension, got {name!r} of shape {list(leaf.shape)} "
                f"for a batch of {size}. Return per-sample values, or leave this output out."
            )
    shapes = _output_shapes(module, inputs, [tuple(leaf.shape[1:]) for _, leaf in leaves], dims)
    axes = [*dims] or [{} for _ in names]
    return IOSpec(
        kind=input_kind(inputs),
        inputs=tuple(_spec(n, leaf, d) for n, leaf, d in zip(names, input_leaves(inputs), axes, strict=True)),
        outputs=tuple(
            dataclasses.replace(_spec(f"{name}_out" if name in names else name, leaf, {}), shape=shape)
            for (name, leaf), shape in zip(leaves, shapes, strict=True)
        ),
        output_tree=tree,
        batch=batch,
    )


def _output_shapes(
    module: nn.Module, inputs: Tree, shapes: list[tuple[int | None, ...]], dims: OpenDims
) -> list[tuple[int | None, ...]]:
    """Return the shapes of the outputs, with None for sizes that vary with the inputs'."""
    if not any(dims):
        return shapes
    sizes = alternative_sizes(inputs, dims)
    try:
        with torch.no_grad():
            outputs = call_model(module, resize(resize_batch(inputs, 2), dims, sizes))
        others = [tuple(leaf.shape[1:]) for _, leaf in describe_tree(outputs, torch.is_tensor)[1]]
        pairs = [zip(one, other, strict=True) for one, other in zip(shapes, others, strict=True)]
        return [tuple(size if size == other else None for size, other in pair) for pair in pairs]
    except Exception as error:
        tried = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
        raise ExportError(f"The module cannot be exported: it does not run at {tried}: {reason_of(error)}") from error


def _spec(name: str, leaf: torch.Tensor, dims: Mapping[int, str]) -> TensorSpec:
    shape = tuple(None if dim in dims else size for dim, size in enumerate(leaf.shape[1:], 1))
    axes = tuple(dims.get(dim) for dim in range(1, leaf.ndim)) if dims else ()
    return TensorSpec(name, str(leaf.dtype).removeprefix("torch."), shape, axes)
