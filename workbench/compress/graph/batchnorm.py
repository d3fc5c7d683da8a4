"""BatchNorm: recompute its running statistics exactly over a split, or fold it into the convolution before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.compress.model_ops import predict_with, removing, restoring
from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.split import Split
from workbench.tasks.trees import Tree, leaves

BatchNorm = nn.modules.batchnorm._BatchNorm
Conv = nn.modules.conv._ConvNd
_TOLERANCE = 1e-4  # relative to the largest output; folding changes the rounding of float32 only


def norms_with_statistics(module: nn.Module) -> dict[str, BatchNorm]:
    """Return the batch norms with running statistics, by name."""
    norms = {name: layer for name, layer in module.named_modules() if isinstance(layer, BatchNorm)}
    return {name: layer for name, layer in norms.items() if layer.running_mean is not None}


def reestimate(module: nn.Module, data: Split, *, batch_size: int, progress: ProgressCallback) -> frozenset[str]:
    """Set the running mean and variance of every BatchNorm to those over ``data``; return the names.

    One pass; the moments are over all samples, not a mean over batches. Meanwhile each norm uses the statistics of its
    batch, as in training (PreciseBN: Wu and Johnson 2021, Rethinking "Batch" in BatchNorm, arXiv 2105.07576). The
    samples are not augmented and dropout is off. Every submodule keeps its mode.
    """
    norms = norms_with_statistics(module)
    if not norms:
        return frozenset()
    moments = {name: _Moments() for name in norms}
    hooks = (layer.register_forward_pre_hook(moments[name].add) for name, layer in norms.items())
    parts = np.array_split(np.arange(len(data)), max(1, min(len(data) // 2, round(len(data) / batch_size))))
    counters = restoring(norms.values(), "num_batches_tracked")
    with restoring(module.modules(), "training"), counters, removing(hooks):
        module.eval()
        for layer in norms.values():
            layer.training = True
            counter = layer.num_batches_tracked
            layer.num_batches_tracked = None if counter is None else counter.clone()
        for index, rows in enumerate(parts):  # a norm needs at least two samples
            progress(Progress("recover", index, len(parts), "recomputing BatchNorm statistics"))
            predict_with(module, data.take(rows).inputs)
    reached = frozenset(name for name in norms if moments[name].count > 1)
    for name in reached:
        moments[name].write(norms[name])
    return reached


class _Moments:
    """Count, mean and sum of squared deviations per channel, in float64, joined batch by batch (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach().double().movedim(1, -1).flatten(0, -2)
        count, mean = len(x), x.mean(0)
        squares = (x - mean).pow(2).sum(0)
        total, apart = self.count + count, mean - self.mean
        self.squares = self.squares + squares + apart.pow(2) * self.count * count / total
        self.mean = self.mean + apart * count / total
        self.count = total

    def write(self, layer: BatchNorm) -> None:
        # torch's running variance is unbiased
        for buffer, value in ((layer.running_mean, self.mean), (layer.running_var, self.squares / (self.count - 1))):
            if buffer is not None:
                buffer.copy_(value)


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls of each convolution and norm in one run, and how often each tensor is read."""

    def __init__(self, module: nn.Module, example: Tree) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, list[tuple[Any, Any]]] = {}
        self.reads: Counter[int] = Counter()
        self._alive: list[Any] = []  # an id is valid only while its tensor lives
        layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, Conv | BatchNorm)]
        with removing(layer.register_forward_hook(self._recorder(name)) for name, layer in layers), self:
            self._alive.append(predict_with(module, example))
        self.outputs = frozenset(map(id, leaves(self._alive[-1])))

    def _recorder(self, name: str) -> Any:
        calls = self.calls[name] = []
        return lambda _, inputs, output: calls.append((inputs[0] if inputs else None, output))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors([*args, *(kwargs or {}).values()]):
            self.reads[id(tensor)] += 1
            self._alive.append(tensor)
        return func(*args, **(kwargs or {}))


def fold_batch_norms(module: nn.Module, example: Tree) -> dict[str, str]:
    """Fold in place each BatchNorm that is the only reader of one convolution; return the result for each.

    Readers are found in a run on ``example``. A fold that changes the outputs is undone. A result is ``"folded into
    <name>"`` or the reason against it.
    """
    module.eval()
    expected = leaves(predict_with(module, example))
    trace = _Trace(module, example)
    results = {}
    for name, norm in [(n, m) for n, m in module.named_modules() if isinstance(m, BatchNorm)]:
        conv, reason = _partner(module, name, norm, trace)
        results[name] = reason or _try(module, name, conv, example, expected)
    return results


def _tensors(values: Iterable[Any]) -> Iterable[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _partner(module: nn.Module, name: str, norm: BatchNorm, trace: _Trace) -> tuple[str, str | None]:
    """Return the convolution to fold ``norm`` into, or the reason if there is none."""
    calls = trace.calls[name]
    if len(calls) != 1:
        return "", f"runs {len(calls)} times" if calls else "is not reached from the model's inputs"
    if norm.running_mean is None or norm.running_var is None:
        return "", "keeps no running statistics"
    source = calls[0][0]
    makers = [n for n, calls in trace.calls.items() if n != name and any(out is source for _, out in calls)]
    conv = module.get_submodule(makers[0]) if len(makers) == 1 else None
    if not isinstance(conv, Conv):
        return "", "does not follow a convolution"
    if "weight" not in conv._parameters or (getattr(conv, "transposed", False) and getattr(conv, "groups", 1) != 1):
        return "", f"{makers[0]} is of a kind that cannot be folded"
    if len(trace.calls[makers[0]]) != 1 or trace.reads[id(conv.weight)] != 1:
        return "", f"{makers[0]} is used more than once"
    if trace.reads[id(source)] != 1 or id(source) in trace.outputs:
        return "", f"others take the output of {makers[0]} too"
    return makers[0], None


def _try(module: nn.Module, name: str, conv: str, example: Tree, expected: list[Any]) -> str:
    """Fold one pair, and undo it if the outputs change."""
    old, norm = module.get_submodule(conv), module.get_submodule(name)
    with torch.no_grad():
        new = fuse_conv_bn_eval(old, norm, transpose=bool(getattr(old, "transposed", False)))  # type: ignore[type-var, arg-type]
    module.set_submodule(conv, new.eval())
    module.set_submodule(name, nn.Identity().eval())
    try:
        reason = _difference(leaves(predict_with(module, example)), expected)
    except Exception as error:  # noqa: BLE001 - the model's own code may need anything of the norm
        reason = f"the model fails without it ({type(error).__name__}: {error})"
    if reason is None:
        return f"folded into {conv}"
    module.set_submodule(conv, old)
    module.set_submodule(name, norm)
    return reason


def _difference(outputs: list[Any], expected: list[Any]) -> str | None:
    for output, reference in zip(outputs, expected, strict=True):
        if not reference.is_floating_point():
            continue
        apart, scale = float((output - reference).abs().max()), float(reference.abs().max())
        if not apart <= _TOLERANCE * scale + 1e-6:
            return f"folding it changes the outputs by {apart:.2g}"
    return None
