"""Report where a loaded model runs, and which parts fell back to another place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_GPUS = ("cuda", "CUDA", "Tensorrt", "NvTensorRT", "GPU")


@dataclasses.dataclass(frozen=True)
class Placement:
    """The device or provider of a model.

    Attributes
    ----------
    place : str
        The runtime's name: ``"CPUExecutionProvider"``, ``"cuda:0"``, ``"GPU"``.
    nodes : mapping of str to int
        Graph nodes by place, if the runtime reports them. ONNX Runtime counts them before fusion, so the count does not
        depend on ``graph_optimization``; a graph from the cache (``keep_optimized``) is counted as stored.
    fallbacks : tuple of str
        What runs elsewhere than configured. With ``InferenceConfig(strict=True)`` they are errors.

    Examples
    --------
    >>> str(Placement("CUDAExecutionProvider", {"CUDAExecutionProvider": 42, "CPUExecutionProvider": 3}))
    'CUDAExecutionProvider (42 nodes), CPUExecutionProvider (3 nodes)'
    """

    place: str
    nodes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.nodes:
            return self.place
        return ", ".join(f"{name} ({count} node{'s' if count != 1 else ''})" for name, count in self.nodes.items())


def placement_of(session: Any) -> Placement:
    """Return the placement of a session; its ``nodes`` and ``fallbacks`` are optional."""
    return Placement(str(session.placement), getattr(session, "nodes", {}), tuple(getattr(session, "fallbacks", ())))


def runs_on_gpu(place: object) -> bool:
    """Return whether a placement, or its text, names a GPU.

    Examples
    --------
    >>> runs_on_gpu("cuda:0"), runs_on_gpu(Placement("CPUExecutionProvider"))
    (True, False)
    """
    return str(place).startswith(_GPUS)
