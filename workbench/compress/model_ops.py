"""Run a module, count its parameters and multiply-accumulates, and replace transformers' Conv1D."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

from workbench.tasks.trees import batch_size, call_model

if TYPE_CHECKING:
    from workbench.tasks.task import Task


def predict_with(module: nn.Module, inputs: Any) -> Any:
    """Call ``module`` on a batch without recording gradients."""
    with torch.no_grad():
        return call_model(module, inputs)


def quality_of(module: nn.Module, task: Task) -> float:
    """Return the task's metric of ``module`` on the validation split, in its current mode."""
    return task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")


def validation_quality(module: nn.Module, task: Task) -> float:
    """Return :func:`quality_of` in eval mode; every submodule keeps its mode."""
    with restoring(module.modules(), "training"):
        return quality_of(module.eval(), task)


def count_params(module: nn.Module) -> int:
    """Return the number of trainable and frozen parameters, without buffers."""
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, inputs: Any) -> int:
    """Return multiply-accumulates per sample of convolutions and matrix products, attention and recurrence included.

    Counted while the module runs on ``inputs`` (batch leading), so that functional calls count too. Elementwise
    operations, normalization and pooling are not counted.
    """
    # The counter cannot see into fused attention, which is off while gradients are on.
    cpu_attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    counter = FlopCounterMode(display=False, custom_mapping=cpu_attention)
    with without_fast_path(), open_recurrence(module), torch.enable_grad(), counter:
        call_model(module, inputs)
    return int(counter.get_total_flops()) // (2 * batch_size(inputs))


@contextlib.contextmanager
def open_recurrence(module: nn.Module) -> Iterator[None]:
    """Run LSTM and GRU as matrix products that the counter sees, not as one oneDNN kernel."""
    if not any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")  # raised by switching oneDNN
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def require_all_grads(module: nn.Module) -> list[str]:
    """Set ``requires_grad`` on every parameter; return the names of those that were frozen."""
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    for name in frozen:
        module.get_parameter(name).requires_grad_(True)
    return frozen


@contextlib.contextmanager
def unfrozen(module: nn.Module) -> Iterator[None]:
    """Set ``requires_grad`` on every parameter for a block, and freeze again those that were frozen."""
    frozen = require_all_grads(module)
    try:
        yield
    finally:
        for name in frozen:
            module.get_parameter(name).requires_grad_(False)


@contextlib.contextmanager
def removing(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end of a block."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def restoring(parts: Iterable[nn.Module], *names: str) -> Iterator[None]:
    """Restore attributes of modules, such as ``training``, at the end of a block."""
    kept = [(part, name, getattr(part, name)) for part in parts for name in names]
    try:
        yield
    finally:
        for part, name, value in kept:
            setattr(part, name, value)


@contextlib.contextmanager
def without_fast_path() -> Iterator[None]:
    """Run encoder layers operator by operator, not as one fused kernel, for a block."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def is_hf_conv1d(layer: nn.Module) -> bool:
    """Return whether a layer is transformers' ``Conv1D``, by name: the import of transformers takes seconds."""
    return (type(layer).__module__, type(layer).__name__) == ("transformers.pytorch_utils", "Conv1D")


def replace_hf_conv1d(module: nn.Module) -> nn.Module:
    """Replace every ``Conv1D`` of transformers (GPT-2) by an ``nn.Linear`` with equal outputs, in place.

    Its weight is ``[in, out]`` instead of ``[out, in]``. A layer with a tied weight stays as it is.
    """
    owners = Counter(id(p) for layer in module.modules() for p in layer.parameters(recurse=False))
    replaced: dict[nn.Module, nn.Linear] = {}
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        if not is_hf_conv1d(layer) or owners[id(layer.weight)] > 1:
            continue
        if layer not in replaced:
            replaced[layer] = _linear(layer)
        module.set_submodule(path, replaced[layer])
    return module


def _linear(layer: nn.Module) -> nn.Linear:
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    linear = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
    linear.weight = nn.Parameter(weight.detach().t().contiguous(), requires_grad=weight.requires_grad)
    linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return linear.train(layer.training)
