"""How values are rounded: ranges and observers for calibration, simulated rounding for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from workbench.compress.quantize.annotate import Annotator
from workbench.compress.quantize.quiet import quiet_torchao
from workbench.compress.steps import Quantize
from workbench.core.machine import this_machine

_EPS = 2.0**-24


@dataclass(frozen=True)
class Scheme:
    """The numbers behind a Quantize step on its target: largest weight level, and whether scales are per channel."""

    weight_max: int
    per_channel: bool
    activations: bool
    notes: tuple[str, ...]


def scheme_for(step: Quantize) -> Scheme:
    """Choose 8-bit weights, or 7-bit ones where the target CPU adds pairs of products in 16 bits."""
    has_dot = this_machine().int8_dot if step.target == "this" else step.target == "int8_dot"
    reduced = not has_dot if step.reduce_range == "auto" else bool(step.reduce_range)
    static = step.activations == "static"
    notes = []
    if reduced and static:
        why = "the target CPU has no int8 dot product, and its kernels" if not has_dot else "as asked: kernels"
        notes.append(f"Weights use 7 bits (reduce_range): {why} would saturate with 8.")
    elif static and not has_dot:
        notes.append("8-bit weights on a CPU without int8 dot product: results may saturate (reduce_range=False).")
    if not static:
        notes.append(
            "Weights are stored in 8 bits and turned back into floats for computing: this gains size, not speed."
        )
    return Scheme(63 if reduced and static else 127, step.per_channel, static, tuple(notes))


def make_quantizer(scheme: Scheme, excluded: frozenset[str], *, training: bool) -> Any:
    """Return a torchao ``Quantizer`` around an :class:`Annotator`, which is its attribute ``annotator``."""
    with quiet_torchao():
        from torchao.quantization.pt2e.quantizer import QuantizationSpec, Quantizer

    class QdqQuantizer(Quantizer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            weight = QuantizationSpec(
                dtype=torch.int8,
                observer_or_fake_quant_ctr=_weight_observer(scheme, training),
                quant_min=-scheme.weight_max,
                quant_max=scheme.weight_max,
                qscheme=torch.per_channel_symmetric if scheme.per_channel else torch.per_tensor_symmetric,
                ch_axis=0 if scheme.per_channel else None,
            )
            # Unsigned with a zero point: the form that the int8 kernels of both runtimes take without conversion.
            activation = QuantizationSpec(
                dtype=torch.uint8,
                observer_or_fake_quant_ctr=_activation_observer(training),
                quant_min=0,
                quant_max=255,
                qscheme=torch.per_tensor_affine,
            )
            self.annotator = Annotator(activation if scheme.activations else None, weight, excluded)

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            self.annotator.annotate(model)
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            return None

    return QdqQuantizer()


def _weight_observer(scheme: Scheme, training: bool) -> Any:
    from torchao.quantization.pt2e import observer

    if not training:
        kind = observer.PerChannelMinMaxObserver if scheme.per_channel else observer.MinMaxObserver
        return kind.with_args(eps=_EPS)
    from torchao.quantization.pt2e.fake_quantize import FusedMovingAvgObsFakeQuantize

    moving = (
        observer.MovingAveragePerChannelMinMaxObserver if scheme.per_channel else observer.MovingAverageMinMaxObserver
    )
    # A constant of 1 forgets the past: the range is that of the weights as they are now.
    return FusedMovingAvgObsFakeQuantize.with_args(observer=moving, averaging_constant=1.0, eps=_EPS)


def _activation_observer(training: bool) -> Any:
    from torchao.quantization.pt2e.observer import HistogramObserver

    if not training:
        return HistogramObserver.with_args(eps=_EPS)
    from workbench.compress.quantize.ranged import RangedFakeQuantize

    return RangedFakeQuantize.with_args(observer=HistogramObserver, eps=_EPS)
