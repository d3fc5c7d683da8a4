"""Forms of a torch module: memory format, 16 bits, flat inputs and outputs for compilers. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.core.errors import first_line
from workbench.export.agreement import compare_outputs
from workbench.export.io import IOSpec, tree_children

NOTHING = "memory_format='channels_last' has no effect: the model has no weight or input with four dimensions"


class Layout:
    """Convert weights once and inputs in every call; ``notes`` if there is nothing to convert.

    Convolutions run on channels-last (NHWC) tensors without converting them. Only 4-d tensors are converted; outputs
    are returned as contiguous arrays.
    """

    def __init__(self, module: nn.Module, io: IOSpec, memory_format: str) -> None:
        self.notes: tuple[str, ...] = ()
        self._last = memory_format == "channels_last"
        if self._last:
            weights = [t for t in (*module.parameters(), *module.buffers()) if t.dim() == 4]
            for weight in weights:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            if not weights and all(len(spec.shape) != 3 for spec in io.inputs):
                self._last, self.notes = False, (NOTHING,)

    def __call__(self, tensors: list[Any]) -> list[Any]:
        if not self._last:
            return tensors
        return [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]


_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class HalfPrecisionModule(nn.Module):
    """The module under autocast: products in 16 bits, sums and norms in float32.

    A module cast as a whole would fail on float32 tensors of its own, and lose accuracy in its norms. Weights that only
    products use are stored in 16 bits, so that autocast does not cast them in every call.
    """

    def __init__(self, module: nn.Module, precision: str, device: str) -> None:
        super().__init__()
        self.module = module
        self._dtype, self._device = getattr(torch, precision), device.partition(":")[0]
        _unfuse(module)
        _store(module, self._dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module; 16-bit outputs are converted to float32."""
        with torch.autocast(self._device, self._dtype, cache_enabled=False):
            output = self.module(*args, **kwargs)
        return pytree.tree_map(_widened, output)


def _widened(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16) else leaf


def _unfuse(module: nn.Module) -> None:
    """Disable the fused kernel of encoder layers, which requires one dtype of all weights."""
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0
        elif isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False


def _store(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights that only products use."""
    others = {
        id(weight)
        for part in module.modules()
        if type(part) not in _PRODUCTS
        for weight in part.parameters(recurse=False)
    }
    for part in module.modules():
        if type(part) in _PRODUCTS:
            for weight in part.parameters(recurse=False):
                if id(weight) not in others and weight.dtype == torch.float32:
                    weight.data = weight.data.to(dtype)


class FlatModule(nn.Module):
    """Maps inputs in the order of the io description to a flat tuple of outputs."""

    def __init__(self, module: nn.Module, io: IOSpec) -> None:
        super().__init__()
        self.module = module
        self._flat = flat_call(module, io)
        # A captured graph has no eval().
        for part in self.modules():
            part.training = False

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._flat(list(tensors)))


def first_disagreement(
    eager: Callable[..., Any], made: Callable[..., Any], batches: Sequence[Sequence[Tensor]], **limits: Any
) -> str | None:
    """Return the first difference between ``made`` and ``eager``, None if they agree on every batch.

    Float inputs are also run with the opposite sign, for code that branches on values. A batch that the eager module
    does not run is skipped. ``limits`` are those of :func:`workbench.export.agreement.compare_outputs`.
    """
    for given in batches:
        negated = [tensor.neg() if tensor.is_floating_point() else tensor for tensor in given]
        for tensors, which in ((given, ""), (negated, ", inputs of the opposite sign")):
            problem = _difference(eager, made, tensors, **limits)
            if problem is not None:
                return f"at batch {len(given[0])}{which}: {problem}"
    return None


def _difference(
    eager: Callable[..., Any], made: Callable[..., Any], tensors: Sequence[Tensor], **limits: Any
) -> str | None:
    with torch.inference_mode():
        try:
            expected = [leaf.cpu().numpy() for leaf in eager(*tensors)]
        except Exception:  # noqa: BLE001 - the user's module may refuse a batch size
            return None
        try:
            got = [leaf.cpu().numpy() for leaf in made(*tensors)]
        except Exception as error:  # noqa: BLE001 - any error is a difference
            return first_line(error)
    return compare_outputs(expected, got, **limits).problem


def flat_call(module: Any, io: IOSpec) -> Callable[[list[Any]], Any]:
    """Return a function that maps flat input tensors to flat output tensors of a module."""
    flatten = _flattener(io.output_tree)
    if io.kind == "dict":
        names = io.input_names
        return lambda tensors: flatten(module(**dict(zip(names, tensors, strict=True))))
    return lambda tensors: flatten(module(*tensors))


def _flattener(tree: Mapping[str, Any]) -> Callable[[Any], list[Any]]:
    """Return a function that flattens an eager output in the order of the io description."""
    (kind,) = tree
    if kind == "leaf":
        return lambda output: [output]
    if kind == "none":
        return lambda output: []
    parts = [(key, _flattener(child)) for key, child in tree_children(tree)]
    return lambda output: [leaf for key, flatten in parts for leaf in flatten(output[key])]
