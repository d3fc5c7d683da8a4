"""Support matrix: quantization modes by engine. Torch-free; a test covers each cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.compress.steps import Quantize

_NO_MODULE = (
    "{} cannot run this model: route {} makes only an ONNX file. Use the backend onnxruntime or openvino, or "
    "Quantize(route='qdq')."
)
_NO_DYNAMIC = (
    "OpenVINO has no int8 kernels for ONNX's dynamic quantization and would run it in float, slower than the float "
    "model. Use the backend onnxruntime, or Quantize(activations='none')."
)
_NO_WEIGHT_ZERO = (
    "OpenVINO has no int8 convolution for weights with a zero point and would run it in float. Use the backend "
    "onnxruntime, or Quantize(symmetric='weights')."
)

_TORCH = ("torch-eager", "torch-compile", "torchscript", "aot-inductor")

EVERYWHERE: Mapping[str, str] = {}
MODES: dict[str, Mapping[str, str]] = {
    "static": EVERYWHERE,
    "static symmetric": EVERYWHERE,
    "static asymmetric": {"openvino": _NO_WEIGHT_ZERO},
    "dynamic": {"openvino": _NO_DYNAMIC},
    "8-bit weights": EVERYWHERE,
    "8-bit weights asymmetric": EVERYWHERE,
    "4-bit weights": EVERYWHERE,
    "4-bit weights asymmetric": EVERYWHERE,
    "4-bit weights in groups": EVERYWHERE,
    "4-bit weights in groups asymmetric": EVERYWHERE,
    **{route: {engine: _NO_MODULE.format(engine, route) for engine in _TORCH} for route in ("onnxruntime", "nncf")},
}
"""Mode to engine to the reason why it is not supported; all other engines run it."""


def mode_of(step: Quantize) -> str:
    """Return the mode of a step, a key of :data:`MODES`."""
    if step.route != "qdq":
        return step.route
    if step.activations != "none":
        kind = {"weights": "", "both": " symmetric", "none": " asymmetric"}[step.symmetric]
        return f"{step.activations}{kind}"
    groups = " in groups" if step.group_size is not None else ""
    return f"{step.bits}-bit weights{groups}" + (" asymmetric" if step.symmetric == "none" else "")


def mode_of_recipe(recipe: Mapping[str, Any]) -> str | None:
    """Return the mode of a recipe in JSON form, None if its last step is not Quantize.

    Examples
    --------
    >>> mode_of_recipe({"steps": [{"step": "Quantize", "bits": 4, "activations": "none"}]})
    '4-bit weights'
    """
    from workbench.compress.steps import Quantize, step_from_dict

    steps = recipe.get("steps") or ()
    step = step_from_dict(steps[-1]) if steps else None
    return mode_of(step) if isinstance(step, Quantize) else None


def refusal(mode: str | None, engine: str) -> str | None:
    """Return why an engine does not support a mode, or None if it does."""
    return MODES[mode].get(engine) if mode is not None else None


def unbatchable(mode: str | None) -> str | None:
    """Return why a mode must not batch samples of different callers, or None if it may."""
    return "dynamic quantization takes activation ranges from the whole batch" if mode == "dynamic" else None
