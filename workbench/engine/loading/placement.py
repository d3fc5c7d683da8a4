"""Where a loaded model runs, and what of it fell back to somewhere else than asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_GPUS = ("cuda", "CUDA", "Tensorrt", "NvTensorRT", "GPU")


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a model runs.

    Attributes
    ----------
    place : str
        The runtime's name of it: ``"CPUExecutionProvider"``, ``"cuda:0"``, ``"GPU"``.
    nodes : mapping of str to int
        Nodes of the graph by place, where the runtime tells. ONNX Runtime counts them as it assigned them, before it
        fuses any: the count is the same for every ``graph_optimization``. Where a kept graph is read
        (``keep_optimized``) it counts that one's, which are fewer where nodes were fused.
    fallbacks : tuple of str
        What runs elsewhere than asked, a sentence each. ``InferenceConfig(strict=True)`` makes an error of them.

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
    """Return where a session runs; ``nodes`` and ``fallbacks`` are optional there."""
    return Placement(str(session.placement), getattr(session, "nodes", {}), tuple(getattr(session, "fallbacks", ())))


def runs_on_gpu(place: object) -> bool:
    """Say whether a placement, or its words, names a GPU.

    Examples
    --------
    >>> runs_on_gpu("cuda:0"), runs_on_gpu(Placement("CPUExecutionProvider"))
    (True, False)
    """
    return str(place).startswith(_GPUS)
