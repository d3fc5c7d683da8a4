"""Compiled models for other batch sizes of an OpenVINO session, and checks of output shapes."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError

ANY = 0
"""Key of the model compiled for any batch size."""
_MOST_SIZES, _MOST_SHAPES = 8, 4096
"""Cached batch sizes if an open batch fails, and cached input shapes."""


class OtherSizes:
    """Models for batch sizes other than a session's own: one for any size, or one for each.

    OpenVINO optimizes a graph with an open batch differently, and not always correctly. ``compile_agreeing`` compiles
    for a size (None: any), and returns None if outputs differ from the reference at the given sizes.
    """

    def __init__(
        self, own: int, any_size: Any | None, compile_agreeing: Callable[[int | None, tuple[int, ...]], Any | None]
    ) -> None:
        self._probes = (2, 3) if own == 1 else (1, 3)
        self._compile = compile_agreeing
        self._lock = threading.Lock()
        self._separate = False
        self._kept: collections.OrderedDict[int, Any] = collections.OrderedDict()
        if any_size is not None:
            self._kept[ANY] = any_size

    def at(self, size: int) -> tuple[int, Any]:
        """Return the key and the compiled model for a batch of ``size`` samples."""
        with self._lock:
            if not self._separate and ANY not in self._kept:
                compiled = self._compile(None, self._probes)
                self._separate = compiled is None
                if compiled is not None:
                    self._kept[ANY] = compiled
            if not self._separate:
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

    def has(self, key: int) -> bool:
        return key in self._kept

    def close(self) -> None:
        self._kept.clear()


class OutputShapes:
    """Shapes of a model's outputs for new input shapes, by shape inference.

    With one thread OpenVINO (2026.4) returns empty or old arrays, or ends the process, for shapes that do not fit
    inside the model; shape inference raises.
    """

    def __init__(self, read_model: Callable[[], Any], partial_shape: Any) -> None:
        self._read, self._partial = read_model, partial_shape
        self._model: Any = None
        self._shapes: dict[tuple[tuple[int, ...], ...], list[Any]] = {}
        self._lock = threading.Lock()

    def of(self, inputs: Arrays) -> list[Any]:
        """Return the partial shape of every output; raise OpenVINO's error for shapes that do not fit."""
        shapes = tuple(array.shape for array in inputs)
        with self._lock:
            if shapes not in self._shapes:
                if len(self._shapes) >= _MOST_SHAPES:
                    self._shapes.clear()
                self._model = self._model or self._read()
                self._model.reshape(dict(enumerate(map(list, shapes))))
                self._shapes[shapes] = [port.get_partial_shape() for port in self._model.outputs]
            return self._shapes[shapes]

    def check(self, outputs: Arrays, expected: list[Any]) -> None:
        """Raise EngineError if an output has a wrong shape."""
        for output, shape in zip(outputs, expected, strict=True):
            if not shape.compatible(self._partial(list(output.shape))):
                raise EngineError(f"OpenVINO's output must have shape {shape}, got {list(output.shape)}.")

    def close(self) -> None:
        self._model = None
        self._shapes.clear()
