"""How values are rounded: ranges and observers for calibration, simulated rounding for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from workbench.compress.graph.torchao_import import quiet_torchao
from workbench.compress.quantize.annotate import Annotator
from workbench.compress.steps import Quantize
from workbench.core.machine import this_machine

_EPS = 2.0**-24


@dataclass(frozen=True)
class Scheme:
    """The numbers behind a Quantize step on its target: the levels of weights, and what to say about them."""

    step: Quantize
    levels: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def symmetric_weights(self) -> bool:
        """Whether zero is the middle of a weight's range."""
        return self.step.symmetric != "none"

    @property
    def weight_dtype(self) -> torch.dtype:
        """What holds a weight's integers."""
        return torch.int8 if self.symmetric_weights else torch.uint8

    def words(self, shape: torch.Size) -> str:
        """Return what happens to a layer whose weight has this shape."""
        step = self.step
        if step.activations != "none":
            return "int8 weights and inputs" + (", dynamic" if step.activations == "dynamic" else "")
        words = f"int{step.bits} weights"
        if step.group_size is None:
            return words
        row = shape[1:].numel()
        if row % step.group_size:
            return f"{words}, one scale per channel: its {row} values are no multiple of {step.group_size}"
        return f"{words} in groups of {step.group_size}"


def scheme_for(step: Quantize) -> Scheme:
    """Choose the levels: 7-bit weights where the target CPU adds pairs of products in 16 bits."""
    has_dot = this_machine().int8_dot if step.target == "this" else step.target == "int8_dot"
    reduced = (not has_dot if step.reduce_range == "auto" else bool(step.reduce_range)) and step.activations != "none"
    notes = []
    if step.activations == "none":
        notes.append(
            f"Weights are stored in {step.bits} bits and turned back into floats for computing: this gains size, "
            "not speed."
        )
    elif reduced:
        why = "the target CPU has no int8 dot product, and its kernels" if not has_dot else "as asked: kernels"
        notes.append(f"Weights use 7 bits (reduce_range): {why} would saturate with 8.")
    elif not has_dot:
        notes.append("8-bit weights on a CPU without int8 dot product: results may saturate (reduce_range=False).")
    if step.activations == "dynamic":
        notes.append("Ranges of activations are those of the batch: a sample's outputs depend a little on the others.")
    top = (63 if reduced else 127) if step.bits == 8 else 7
    levels = (-top, top) if step.symmetric != "none" else (0, 2 * top + 1)
    return Scheme(step, levels, tuple(notes))


def make_quantizer(scheme: Scheme, excluded: Mapping[str, str], *, training: bool) -> Any:
    """Return a torchao ``Quantizer`` around an :class:`Annotator`, which is its attribute ``annotator``."""
    with quiet_torchao():
        from torchao.quantization.pt2e.quantizer import Quantizer

    class QdqQuantizer(Quantizer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            activation, weight = _activation_spec(scheme, training), _weight_spec(scheme, training)
            flow = scheme.step.activations == "static"
            self.annotator = Annotator(activation, weight, excluded, flow=flow, words=scheme.words)

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            self.annotator.annotate(model)
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            return None

    return QdqQuantizer()


def _weight_spec(scheme: Scheme, training: bool) -> Any:
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    per_channel = scheme.step.per_channel
    if scheme.symmetric_weights:
        kind = torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric
    else:
        kind = torch.per_channel_affine if per_channel else torch.per_tensor_affine
    return QuantizationSpec(
        dtype=scheme.weight_dtype,
        observer_or_fake_quant_ctr=_trained_weight(per_channel) if training else _weight_observer(scheme.step),
        quant_min=scheme.levels[0],
        quant_max=scheme.levels[1],
        qscheme=kind,
        ch_axis=0 if per_channel else None,
    )


def _weight_observer(step: Quantize) -> Any:
    from torchao.quantization.pt2e import observer

    from workbench.compress.quantize import observers
    from workbench.compress.quantize.group_weights import GroupObserver

    least_square = step.observer == "mse"
    if step.group_size is not None:
        return GroupObserver.with_args(group_size=step.group_size, least_square=least_square)
    if least_square:
        kind = observers.MeanSquarePerChannelObserver if step.per_channel else observers.MeanSquareObserver
    else:
        kind = observer.PerChannelMinMaxObserver if step.per_channel else observer.MinMaxObserver
    return kind.with_args(eps=_EPS)


def _trained_weight(per_channel: bool) -> Any:
    from torchao.quantization.pt2e import observer
    from torchao.quantization.pt2e.fake_quantize import FusedMovingAvgObsFakeQuantize

    moving = observer.MovingAveragePerChannelMinMaxObserver if per_channel else observer.MovingAverageMinMaxObserver
    # A constant of 1 forgets the past: the range is that of the weights as they are now.
    return FusedMovingAvgObsFakeQuantize.with_args(observer=moving, averaging_constant=1.0, eps=_EPS)


def _activation_spec(scheme: Scheme, training: bool) -> Any:
    """Unsigned with a zero point: the form that the int8 kernels of both runtimes take without conversion."""
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    if scheme.step.activations == "none":
        return None
    dynamic = scheme.step.activations == "dynamic"
    return QuantizationSpec(
        dtype=torch.uint8,
        observer_or_fake_quant_ctr=_placeholder() if dynamic else _activation_observer(scheme.step, training),
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
        is_dynamic=dynamic,
    )


def _placeholder() -> Any:
    from torchao.quantization.pt2e.observer import PlaceholderObserver

    return PlaceholderObserver.with_args(eps=_EPS)


def _activation_observer(step: Quantize, training: bool) -> Any:
    from workbench.compress.quantize.observers import RANGES

    options: dict[str, Any] = {"eps": _EPS, "centered": step.symmetric == "both"}
    if step.observer == "percentile":
        options["percentile"] = step.percentile
    if not training:
        return RANGES[step.observer].with_args(**options)
    from workbench.compress.quantize.fixed_range_fake_quant import RangedFakeQuantize

    return RangedFakeQuantize.with_args(observer=RANGES[step.observer], **options)
