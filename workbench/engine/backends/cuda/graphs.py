"""CUDA graphs: the launches of a whole call recorded once, and given to the device as one afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.core.errors import first_line

GRAPHS = 4
"""How many shapes of input are recorded; each keeps memory of its own for inputs and outputs."""

ONLY_CUDA = "cuda_graph=True: graphs are recorded on CUDA devices, and this runs on the CPU without"
WARM_UP = 3

Call = Callable[[list[Tensor]], Any]
_Key = tuple[tuple[int, ...], ...]


class RecordedGraph(NamedTuple):
    """A graph, the tensors that it reads and those that it writes."""

    graph: Any
    inputs: list[Tensor]
    outputs: list[Tensor]


class GraphedCall:
    """Calls a model by recorded graphs: one for each shape that comes twice, up to :data:`GRAPHS` of them.

    All other shapes, and a model whose calls cannot be recorded, run as without. What a call gives is overwritten by
    the next one: copy it on the same stream before.

    Parameters
    ----------
    call
        Takes tensors on the device and gives tensors on the device.
    device
        ``"cuda:0"``.
    note
        Called with a sentence where recording fails.
    cuda
        torch.cuda; another in tests.
    """

    def __init__(self, call: Call, device: str, *, note: Callable[[str], None], cuda: Any = torch.cuda) -> None:
        self._call, self._device, self._note, self._cuda = call, device, note, cuda
        self._side = cuda.Stream(device)
        # One pool for all graphs: none runs beside another, and what one gives is copied before the next runs.
        self._pool = cuda.graph_pool_handle()
        self._seen: set[_Key] = set()
        self._graphs: dict[_Key, RecordedGraph] = {}
        self._failed = False

    def __call__(self, tensors: list[Tensor]) -> Any:
        """Run one batch."""
        key = tuple(tuple(tensor.shape) for tensor in tensors)
        recorded = self._graphs.get(key)
        if recorded is None and key in self._seen and len(self._graphs) < GRAPHS and not self._failed:
            recorded = self._record(key, tensors)
        self._seen.add(key)
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
            # Other threads may allocate meanwhile: only this one is held to what can be recorded.
            with cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"):
                outputs = list(self._call(static))
        except Exception as error:  # noqa: BLE001 - whatever cannot be recorded runs as it did
            self._failed = True
            self._note(
                f"cuda_graph=True: the calls of this model cannot be recorded ({first_line(error).rstrip('.')}); "
                "running without graphs"
            )
        else:
            self._graphs[key] = RecordedGraph(graph, static, outputs)
            return self._graphs[key]
        with contextlib.suppress(Exception):  # the call that follows says what is wrong
            cuda.synchronize(self._device)
        return None
