"""Quantization specs: levels, observers for calibration, fake quantization for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from workbench.compress.quantize import observers
from workbench.compress.quantize.annotate import Annotator
from workbench.compress.quantize.observers import FixedRangeFakeQuantize
from workbench.compress.steps import Quantize
from workbench.core.machine import this_machine
from workbench.core.quiet import quiet_torchao

with quiet_torchao():
    from torchao.quantization.pt2e import observer
    from torchao.quantization.pt2e.fake_quantize import FusedMovingAvgObsFakeQuantize
    from torchao.quantization.pt2e.quantizer import QuantizationSpec, Quantizer

_EPS = 2.0**-24


@dataclass(frozen=True)
class Scheme:
    """A Quantize step resolved for its target CPU: weight levels and notes."""

    step: Quantize
    levels: tuple[int, int]
    notes: tuple[str, ...]

    def describe(self, shape: torch.Size) -> str:
        """Return the report of a layer with a weight of this shape."""
        step = self.step
        if step.activations != "none":
            return "int8 weights and inputs" + (", dynamic" if step.activations == "dynamic" else "")
        weights = f"int{step.bits} weights"
        if step.group_size is None:
            return weights
        row = shape[1:].numel()
        if row % step.group_size:
            return f"{weights}, one scale per channel: its {row} values are not a multiple of {step.group_size}"
        return f"{weights} in groups of {step.group_size}"


def scheme_for(step: Quantize) -> Scheme:
    """Return the scheme: 7-bit weights if the target CPU accumulates pairs of products in 16 bits."""
    has_dot = this_machine().int8_dot if step.target == "this" else step.target == "int8_dot"
    reduced = (not has_dot if step.reduce_range == "auto" else bool(step.reduce_range)) and step.activations != "none"
    notes = []
    if step.activations == "none":
        notes.append(
            f"Weights are stored in {step.bits} bits and dequantized to float at run time: smaller, not faster."
        )
    elif reduced:
        why = "set by the step" if has_dot else "the target CPU has no int8 dot product, and 8 bits would saturate"
        notes.append(f"Weights use 7 bits (reduce_range): {why}.")
    elif not has_dot:
        notes.append("8-bit weights on a CPU without an int8 dot product may saturate (reduce_range=False).")
    if step.activations == "dynamic":
        notes.append("Activation ranges are computed per batch: outputs depend slightly on the other samples.")
    top = (63 if reduced else 127) if step.bits == 8 else 7
    levels = (-top, top) if step.symmetric != "none" else (0, 2 * top + 1)
    return Scheme(step, levels, tuple(notes))


class QdqQuantizer(Quantizer):  # type: ignore[misc]
    """torchao's quantizer interface around an :class:`Annotator`."""

    def __init__(self, scheme: Scheme, excluded: Mapping[str, str], *, training: bool) -> None:
        super().__init__()
        self.annotator = Annotator(
            _activation_spec(scheme.step, training),
            _weight_spec(scheme, training),
            excluded,
            flow=scheme.step.activations == "static",
            describe=scheme.describe,
        )

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        """Annotate a graph, in place."""
        self.annotator.annotate(model)
        return model

    def validate(self, model: torch.fx.GraphModule) -> None:
        """Accept every graph."""


def _weight_spec(scheme: Scheme, training: bool) -> Any:
    step, symmetric = scheme.step, scheme.step.symmetric != "none"
    if step.per_channel:
        qscheme = torch.per_channel_symmetric if symmetric else torch.per_channel_affine
    else:
        qscheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    return QuantizationSpec(
        dtype=torch.int8 if symmetric else torch.uint8,
        observer_or_fake_quant_ctr=_trained_weight(step) if training else _weight_observer(step),
        quant_min=scheme.levels[0],
        quant_max=scheme.levels[1],
        qscheme=qscheme,
        ch_axis=0 if step.per_channel else None,
    )


def _weight_observer(step: Quantize) -> Any:
    least_square = step.observer == "mse"
    if step.group_size is not None:
        return observers.GroupObserver.with_args(group_size=step.group_size, least_square=least_square)
    if least_square:
        kind = observers.MeanSquarePerChannelObserver if step.per_channel else observers.MeanSquareObserver
    else:
        kind = observer.PerChannelMinMaxObserver if step.per_channel else observer.MinMaxObserver
    return kind.with_args(eps=_EPS)


def _trained_weight(step: Quantize) -> Any:
    per_tensor, per_channel = observer.MovingAverageMinMaxObserver, observer.MovingAveragePerChannelMinMaxObserver
    # A constant of 1 makes the range that of the current weights.
    return FusedMovingAvgObsFakeQuantize.with_args(
        observer=per_channel if step.per_channel else per_tensor, averaging_constant=1.0, eps=_EPS
    )


def _activation_spec(step: Quantize, training: bool) -> Any:
    """Return uint8 with a zero point, which both runtimes' int8 kernels take without conversion."""
    if step.activations == "none":
        return None
    dynamic = step.activations == "dynamic"
    placeholder = observer.PlaceholderObserver.with_args(eps=_EPS)
    return QuantizationSpec(
        dtype=torch.uint8,
        observer_or_fake_quant_ctr=placeholder if dynamic else _activation_observer(step, training),
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
        is_dynamic=dynamic,
    )


def _activation_observer(step: Quantize, training: bool) -> Any:
    options: dict[str, Any] = {"eps": _EPS, "centered": step.symmetric == "both"}
    if step.observer == "percentile":
        options["percentile"] = step.percentile
    kind = observers.RANGES[step.observer]
    return FixedRangeFakeQuantize.with_args(observer=kind, **options) if training else kind.with_args(**options)
