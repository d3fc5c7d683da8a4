"""Which way of quantizing runs on which engine, proved by a test, or why not. Without torch: engines read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.compress.steps import Quantize

_NO_MODULE = (
    "{} cannot compute this: the route {} makes an ONNX file only. Use the backend onnxruntime or openvino, "
    "or Quantize(route='qdq')."
)
_NO_DYNAMIC = (
    "OpenVINO has no integer kernels for ONNX's dynamic quantization and would compute it in float, slower than the "
    "float model. Use the backend onnxruntime, or Quantize(activations='none'), where OpenVINO rounds the inputs of "
    "matrix products by itself."
)
_NO_WEIGHT_ZERO = (
    "OpenVINO has no integer convolution for weights with a zero point and would compute in float. Use the backend "
    "onnxruntime, or Quantize(symmetric='weights')."
)

_TORCH = ("torch-eager", "torch-compile", "torchscript", "aot-inductor")


def _file_only(route: str) -> Mapping[str, str]:
    return {engine: _NO_MODULE.format(engine, route) for engine in _TORCH}


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
    "onnxruntime": _file_only("onnxruntime"),
    "nncf": _file_only("nncf"),
}
"""Name of each mode, and for each engine that it is refused on the reason; on all others it runs."""


def mode_of(step: Quantize) -> str:
    """Return the mode that a step's options mean, a key of :data:`MODES`."""
    if step.route != "qdq":
        return step.route
    if step.activations != "none":
        kind = {"weights": "", "both": " symmetric", "none": " asymmetric"}[step.symmetric]
        return f"{step.activations}{kind}"
    groups = " in groups" if step.group_size is not None else ""
    return f"{step.bits}-bit weights{groups}" + (" asymmetric" if step.symmetric == "none" else "")


def mode_of_recipe(recipe: Mapping[str, Any]) -> str | None:
    """Return the mode of a recipe in its JSON form, None where its last step is not Quantize.

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
    """Return why an engine does not run a mode, or None where it does.

    Examples
    --------
    >>> refusal("static", "openvino") is None
    True
    """
    return MODES[mode].get(engine) if mode is not None else None


def apart(mode: str | None) -> str | None:
    """Return why samples of different callers must not share a call of a mode, or None if they may.

    Examples
    --------
    >>> apart("static") is None
    True
    """
    return "dynamic quantization takes the ranges of activations from the whole batch" if mode == "dynamic" else None
