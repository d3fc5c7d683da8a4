"""Run 2:4 sparse Linear layers with a GPU's sparse instructions."""

from __future__ import annotations

import torch
from torch import nn

from workbench.compress.layer_selection import display_name
from workbench.compress.variant import LayerReport
from workbench.core.errors import BackendUnavailable, CoverageError, first_line
from workbench.tasks.module import copy_module

_LEAST_CAPABILITY = (8, 0)


def semi_structured(
    module: nn.Module, *, dtype: torch.dtype = torch.float16
) -> tuple[nn.Module, tuple[LayerReport, ...]]:
    """Return a copy of ``module`` on the GPU with 2:4 sparse Linear layers, for inference with torch eager.

    For a variant of ``Sparsify(pattern="2:4")``; weights are stored by ``torch.sparse.to_sparse_semi_structured``.
    Inputs must be in ``dtype`` on the GPU.

    Returns
    -------
    module, reports
        The copy in ``dtype``, and a report per Linear.

    Raises
    ------
    BackendUnavailable
        If there is no CUDA GPU of compute capability 8.0 or later.
    CoverageError
        If no Linear could be converted.

    Examples
    --------
    >>> fast, reports = semi_structured(variant.module)  # doctest: +SKIP
    """
    _require_gpu()
    changed = copy_module(module).eval().to("cuda", dtype)
    reports = []
    for name, layer in changed.named_modules():
        if isinstance(layer, nn.Linear):
            refusal = _convert(layer)
            reports.append(LayerReport(display_name(name), "Linear", refusal is None, refusal or "2:4 sparse"))
    if not any(report.touched for report in reports):
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in reports[:5]) or "the model has no Linear"
        raise CoverageError(f"No layer can run as 2:4 sparse. {reasons}. Use Sparsify(pattern='2:4') on wide Linears.")
    return changed, tuple(reports)


def is_two_of_four(weight: torch.Tensor) -> bool:
    """Return whether at most two of every four consecutive values along the last dimension are not zero."""
    return weight.shape[-1] % 4 == 0 and int((weight.reshape(-1, 4) != 0).sum(1).max()) <= 2


def _require_gpu() -> None:
    if not torch.cuda.is_available():
        raise BackendUnavailable(
            "2:4 sparse products need a CUDA GPU of compute capability 8.0 or later, and torch finds no GPU. Other "
            "engines run the model without a speedup."
        )
    capability = torch.cuda.get_device_capability()
    if capability < _LEAST_CAPABILITY:
        raise BackendUnavailable(
            f"2:4 sparse products need compute capability 8.0 or later; {torch.cuda.get_device_name()} has "
            f"{capability[0]}.{capability[1]}."
        )


def _convert(layer: nn.Linear) -> str | None:
    """Store the weight of ``layer`` in 2:4 form; return the reason if that fails."""
    if not is_two_of_four(layer.weight):
        return "its weight is not 2:4 sparse"
    try:
        packed = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
    except (RuntimeError, NotImplementedError) as error:  # shapes and types without a kernel
        return first_line(error)
    layer.weight = nn.Parameter(packed, requires_grad=False)
    return None
