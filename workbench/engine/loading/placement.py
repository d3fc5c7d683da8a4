"""Report where a loaded model runs, and which parts fell back to another place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_GPUS = ("cuda", "CUDA", "Tensorrt", "NvTensorRT", "GPU")


@dataclasses.dataclass(frozen=True)
class Placement:
    """The device or provider of a model by the runtime's name: ``"CPUExecutionProvider"``, ``"cuda:0"``, ``"GPU"``.

    ``nodes`` are graph nodes by place, if the runtime reports them; ONNX Runtime counts them before fusion, in a cached
    graph (``keep_optimized``) as stored. ``fallbacks`` run elsewhere than configured: errors with
    ``InferenceConfig(strict=True)``.

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
    """Return whether a placement, or its text, names a GPU."""
    return str(place).startswith(_GPUS)
