"""Carry out Sparsify: set weights to zero in rounds, with training between them."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from workbench.compress.distill.apply import recover
from workbench.compress.graph.outputs import output_layers
from workbench.compress.handlers import Outcome, Work, register_handler
from workbench.compress.layer_selection import display_name, holds_matrix, skip_reasons
from workbench.compress.model_ops import count_params
from workbench.compress.sparsify.blocks import SPARSE_LAYERS, Blocks, blocks_of, keep_best, keep_of_each, pattern_blocks
from workbench.compress.step import scheduled_share
from workbench.compress.steps import Recover, Sparsify
from workbench.compress.training.optimizer_hooks import hold_zeros, optimizer_step_hooks
from workbench.compress.variant import LayerReport

# docs.openvino.ai, CPU device, "Sparse weights decompression"
_ENGINES = (
    "Torch eager and ONNX Runtime compute with zeros as with any number: no gain in latency or memory. OpenVINO "
    "exploits sparse int8 matrix products (64, 128, ... channels) only on CPUs with AMX and with "
    "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE, which the workbench does not set."
)
_PATTERN = (
    " GPUs of compute capability 8.0 or later accelerate 2:4 Linear layers: see "
    "workbench.compress.sparsify.semi_structured."
)


@dataclass
class _State:
    """The layers to sparsify with their blocks, the reasons against the others, and accumulated movement scores."""

    layers: dict[str, nn.Module]
    blocks: dict[str, Blocks]
    reasons: dict[str, str]
    movement: dict[str, torch.Tensor] = field(default_factory=dict)
    trainings: int = 0

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: layer.get_parameter("weight").detach() for name, layer in self.layers.items()}


@register_handler(Sparsify)
def sparsify(step: Sparsify, work: Work) -> Outcome:
    """Set weights of the variant's module to zero; see :class:`Sparsify`."""
    module = work.module
    state = _layers(step, work)
    size_before, epochs = deflated_bytes(module), 0.0
    for number in range(1, step.rounds + 1):
        if step.criterion == "movement":
            with _movement_scores(state):
                epochs += _train(step.recover_epochs, work, state, hold=True)
        _set_zeros(step, work, state, scheduled_share(step.schedule, number / step.rounds))
        if step.criterion != "movement" and step.recover_epochs and number < step.rounds:
            epochs += _train(step.recover_epochs, work, state, hold=True)
    if step.dense_epochs:
        epochs += _train(step.recover_epochs, work, state, hold=True)
        epochs += _train(step.dense_epochs, work, state, hold=False)
    return Outcome(module, _report(module, state), epochs, _notes(step, module, size_before))


def deflated_bytes(module: nn.Module) -> int:
    """Return the size in bytes of all parameters, each deflated as in a zip file (level 6, no headers)."""
    return sum(len(zlib.compress(p.detach().contiguous().numpy().tobytes(), 6, wbits=-15)) for p in module.parameters())


def _layers(step: Sparsify, work: Work) -> _State:
    module = work.module
    blocked = skip_reasons(module, step.include, step.exclude, where="Sparsify")
    if step.granularity == "filter" and step.kept_of is None:
        reason = "its rows are the model's outputs: a zero row would be a constant output"
        blocked = dict.fromkeys(output_layers(module, work.task.examples(2), SPARSE_LAYERS), reason) | blocked
    state = _State({}, {}, {})
    owners: dict[int, str] = {}
    for name, layer in module.named_modules():
        if not holds_matrix(layer) and not isinstance(layer, SPARSE_LAYERS):
            continue
        blocks = blocked.get(name) or _blocks(step, layer)
        if isinstance(blocks, Blocks) and owners.setdefault(id(layer.weight), name) != name:
            blocks = f"shares its weight with {owners[id(layer.weight)]}"
        if isinstance(blocks, Blocks):
            state.layers[name], state.blocks[name] = layer, blocks
        else:
            state.reasons[name] = blocks
    return state


def _blocks(step: Sparsify, layer: nn.Module) -> Blocks | str:
    if not isinstance(layer, SPARSE_LAYERS):
        return f"{type(layer).__name__} is not supported: only Linear and convolutions that are not transposed"
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return "its weight is parametrized"
    return pattern_blocks(layer, step.kept_of[1]) if step.kept_of else blocks_of(layer, step.granularity)


def _set_zeros(step: Sparsify, work: Work, state: _State, share: float) -> None:
    weights, scores = state.weights(), _scores(step, work, state)
    if step.kept_of is not None:
        kept, size = step.kept_of
        left = size - round(share * (size - kept))
        masks = {n: keep_of_each(scores[n], weights[n], state.blocks[n], left) for n in weights}
    else:
        together = step.scope == "global"
        masks = keep_best(scores, weights, state.blocks, share * step.ratio, together=together) if weights else {}
    for name, mask in masks.items():
        weights[name].masked_fill_(~mask, 0.0)


def _scores(step: Sparsify, work: Work, state: _State) -> dict[str, torch.Tensor]:
    """Return a score per weight; the lowest become zero first."""
    weights = state.weights()
    if step.criterion == "magnitude":
        return {name: weight.abs() for name, weight in weights.items()}
    if step.criterion == "movement":
        return dict(state.movement)
    work.set_gradients("sparsify", step.samples)
    scores = {}
    for name, layer in state.layers.items():
        gradient = layer.get_parameter("weight").grad
        scores[name] = (weights[name] * gradient).abs() if gradient is not None else torch.zeros_like(weights[name])
    work.module.zero_grad(set_to_none=True)
    return scores


@contextlib.contextmanager
def _movement_scores(state: _State) -> Iterator[None]:
    """Accumulate ``-weight * gradient`` over training steps: positive if a weight moves away from zero."""
    for name, weight in state.weights().items():
        state.movement.setdefault(name, torch.zeros_like(weight))

    def before(_: Optimizer) -> None:
        for name, layer in state.layers.items():
            weight = layer.get_parameter("weight")
            if weight.grad is not None:
                state.movement[name] -= weight * weight.grad

    with optimizer_step_hooks(before=before):
        yield


def _train(epochs: float, work: Work, state: _State, *, hold: bool) -> float:
    state.trainings += 1
    again = replace(work, seed=work.seed + state.trainings)
    with hold_zeros() if hold else contextlib.nullcontext():
        return recover(Recover(epochs=epochs), again).epochs_done


def _report(module: nn.Module, state: _State) -> tuple[LayerReport, ...]:
    reports = []
    for name, layer in module.named_modules():
        if name in state.reasons:
            reports.append(LayerReport(display_name(name), type(layer).__name__, False, state.reasons[name]))
        elif name in state.layers:
            weight = layer.get_parameter("weight")
            zeros = int((weight == 0).sum())
            reason = f"{zeros:,} of {weight.numel():,} weights are zero ({zeros / weight.numel():.1%})"
            reports.append(LayerReport(display_name(name), type(layer).__name__, True, reason))
    return tuple(reports)


def _notes(step: Sparsify, module: nn.Module, size_before: int) -> tuple[str, ...]:
    total = count_params(module)
    nonzero = sum(int(p.count_nonzero()) for p in module.parameters())
    if step.dense_epochs:
        return ("Dense-sparse-dense: all weights were trained again, the model is as large as before.",)
    return (
        f"{nonzero:,} of {total:,} parameters are not zero ({nonzero / total:.1%}); MACs include zeros.",
        f"Zipped size {deflated_bytes(module) / 2**20:.3g} MiB, before {size_before / 2**20:.3g} MiB (deflated).",
        _ENGINES + (_PATTERN if step.pattern == "2:4" else ""),
    )
