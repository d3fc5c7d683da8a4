"""CUDA graphs: record the launches of a whole call, and replay them as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.core.errors import first_line

GRAPHS = 4
"""Number of recorded input shapes; each has its own memory for inputs and outputs."""

ONLY_CUDA = "cuda_graph=True has no effect: graphs are recorded on CUDA devices, and this runs on the CPU"
WARM_UP = 3

Call = Callable[[list[Tensor]], Any]
_Key = tuple[tuple[int, ...], ...]


class RecordedGraph(NamedTuple):
    """A graph with its input and output tensors."""

    graph: Any
    inputs: list[Tensor]
    outputs: list[Tensor]


class GraphedCall:
    """Call a model by recorded graphs: one for each shape that comes twice, up to :data:`GRAPHS`.

    Other shapes, and models that cannot be recorded (``note`` gets the reason), run without graphs. The next call
    overwrites the outputs: copy them on the same stream before. ``cuda`` is torch.cuda, or a fake in tests.
    """

    def __init__(self, call: Call, device: str, *, note: Callable[[str], None], cuda: Any = torch.cuda) -> None:
        self._call, self._device, self._note, self._cuda = call, device, note, cuda
        self._side = cuda.Stream(device)
        # One pool for all graphs: they never overlap, and outputs are copied before the next one runs.
        self._pool = cuda.graph_pool_handle()
        self._called: set[_Key] = set()
        self._graphs: dict[_Key, RecordedGraph] = {}
        self._failed = False

    def __call__(self, tensors: list[Tensor]) -> Any:
        """Run one batch."""
        key = tuple(tuple(tensor.shape) for tensor in tensors)
        recorded = self._graphs.get(key)
        if recorded is None and key in self._called and len(self._graphs) < GRAPHS and not self._failed:
            recorded = self._record(key, tensors)
        self._called.add(key)
        if recorded is None:
            return self._call(tensors)
        for static, tensor in zip(recorded.inputs, tensors, strict=True):
            static.copy_(tensor, non_blocking=True)
        recorded.graph.replay()
        return recorded.outputs

    def _record(self, key: _Key, tensors: list[Tensor]) -> RecordedGraph | None:
        cuda, static = self._cuda, [tensor.clone() for tensor in tensors]
        try:
            current = cuda.current_stream(self._device)
            self._side.wait_stream(current)
            with cuda.stream(self._side):
                for _ in range(WARM_UP):
                    self._call(static)
            current.wait_stream(self._side)
            graph = cuda.CUDAGraph()
            # Only this thread is restricted, because other threads may allocate meanwhile.
            with cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"):
                outputs = list(self._call(static))
        except Exception as error:  # noqa: BLE001 - such a model runs without graphs
            self._failed = True
            self._note(
                f"cuda_graph=True: the calls of this model cannot be recorded ({first_line(error).rstrip('.')}); "
                "running without graphs"
            )
        else:
            self._graphs[key] = RecordedGraph(graph, static, outputs)
            return self._graphs[key]
        with contextlib.suppress(Exception):  # the next call raises the error
            cuda.synchronize(self._device)
        return None
