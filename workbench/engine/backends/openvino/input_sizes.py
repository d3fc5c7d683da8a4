"""Inputs of other sizes than an OpenVINO session was compiled for: what answers them, and what they must give."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError

ANY = 0
"""The batch size under which what is compiled for any is kept."""
_MOST_SIZES, _MOST_SHAPES = 8, 4096
"""Batch sizes that are kept compiled where an open batch goes wrong, and shapes whose outputs' shapes are kept."""


class OtherSizes:
    """What is compiled for batch sizes other than a session's own: one model for any, or one for each.

    OpenVINO rewrites a graph differently where the batch is open, and not always rightly. ``compile_agreeing`` gives
    what is compiled for a size (None: any), or None where it disagrees with the reference at the sizes that follow.
    """

    def __init__(
        self, own: int, any_size: Any | None, compile_agreeing: Callable[[int | None, tuple[int, ...]], Any | None]
    ) -> None:
        self._probes = (2, 3) if own == 1 else (1, 3)
        self._compile = compile_agreeing
        self._lock = threading.Lock()
        self._apart = False
        self._kept: collections.OrderedDict[int, Any] = collections.OrderedDict()
        if any_size is not None:
            self._kept[ANY] = any_size

    def at(self, size: int) -> tuple[int, Any]:
        """Return the key and the compiled model that answer a batch of ``size`` samples."""
        with self._lock:
            if not self._apart and ANY not in self._kept:
                compiled = self._compile(None, self._probes)
                self._apart = compiled is None
                if compiled is not None:
                    self._kept[ANY] = compiled
            if not self._apart:
                return ANY, self._kept[ANY]
            if size not in self._kept:
                self._keep(size)
            self._kept.move_to_end(size)
            return size, self._kept[size]

    def _keep(self, size: int) -> None:
        compiled = self._compile(size, (size,))
        if compiled is None:
            raise EngineError(
                f"OpenVINO gives other outputs than the reference for a batch of {size}, and for an open one. "
                "Use the backend onnxruntime, or this engine at its own batch_size."
            )
        self._kept[size] = compiled
        if len(self._kept) > _MOST_SIZES:
            self._kept.popitem(last=False)

    def still(self, key: int) -> bool:
        """Return whether what is compiled under a key is kept."""
        return key in self._kept

    def close(self) -> None:
        """Free what is compiled."""
        self._kept.clear()


class OutputShapes:
    """The shapes that a model's outputs must have for inputs of new shapes, worked out without running.

    With one thread OpenVINO (2026.4) gives empty or old arrays, or ends the process, where shapes do not fit inside
    the model; working them out raises.
    """

    def __init__(self, read_model: Callable[[], Any], partial_shape: Any) -> None:
        self._read, self._partial = read_model, partial_shape
        self._model: Any = None
        self._known: dict[tuple[tuple[int, ...], ...], list[Any]] = {}
        self._lock = threading.Lock()

    def of(self, inputs: Arrays) -> list[Any]:
        """Return the partial shape of every output; shapes that do not fit the model raise what OpenVINO raises."""
        shapes = tuple(array.shape for array in inputs)
        with self._lock:
            if shapes not in self._known:
                if len(self._known) >= _MOST_SHAPES:
                    self._known.clear()
                self._model = self._model or self._read()
                self._model.reshape(dict(enumerate(map(list, shapes))))
                self._known[shapes] = [port.get_partial_shape() for port in self._model.outputs]
            return self._known[shapes]

    def check(self, outputs: Arrays, wanted: list[Any]) -> None:
        """Raise :class:`EngineError` where an output has another shape than it must have."""
        for output, shape in zip(outputs, wanted, strict=True):
            if not shape.compatible(self._partial(list(output.shape))):
                raise EngineError(f"OpenVINO gave an output of shape {list(output.shape)}, which must be {shape}.")

    def close(self) -> None:
        """Free the model."""
        self._model = None
        self._known.clear()
