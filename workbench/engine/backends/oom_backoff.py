"""Halve a batch that does not fit into memory, and remember the size that fits. numpy only."""

from __future__ import annotations

import re
import textwrap
import threading
import time
from typing import Any, NamedTuple

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, first_line
from workbench.engine.backends.base import Session, run_and_copy

_MESSAGES = re.compile(
    r"out of memory|bad[_ ]alloc|not enough memory|(failed|unable) to allocate (memory|[\d.]+ \w+)"
    r"|can('t|not) allocate memory|smaller than requested bytes|STATUS_ALLOC_FAILED|CL_OUT_OF|OUT_OF_HOST_MEMORY"
    r"|CL_MEM_OBJECT_ALLOCATION_FAILURE|out of GPU resources|exceeded max size of memory object allocation",
    re.IGNORECASE,
)
"""Messages of torch, CUDA's libraries, ONNX Runtime, OpenVINO and its OpenCL, and C++."""

LONGEST = 120
"""Characters of a runtime's message to quote."""

_Shapes = tuple[tuple[int, ...], ...]


class _Limit(NamedTuple):
    """Samples of the first failure, samples of a call since then, and the runtime's message."""

    failed: int
    samples: int
    reason: str


def memory_reason(error: BaseException) -> str | None:
    """Return the message of an out-of-memory error, None for other errors."""
    for line in str(error).splitlines():
        if match := _MESSAGES.search(line):
            return textwrap.shorten(line[match.start() :], LONGEST, placeholder=" ...")
    named = isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return textwrap.shorten(first_line(error), LONGEST, placeholder=" ...") if named else None


class OomBackoffSession:
    """A session that splits batches which do not fit into memory.

    A batch is halved until it fits, unless the model's batch is ``fixed``. Later calls with these shapes use the size
    that fits. All other attributes are the session's own.
    """

    def __init__(self, session: Session, *, backend: str, fixed: bool) -> None:
        self.session = session
        self._backend, self._fixed = backend, fixed
        self._limits: dict[_Shapes, _Limit] = {}
        self._lock = threading.Lock()
        pipe = getattr(session, "pipe", None)
        self.pipe = None if pipe is None else GuardedPipe(self, pipe)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    @property
    def notes(self) -> tuple[str, ...]:
        own = sorted(
            f"{self._backend} ran out of memory with {limit.failed} samples on {self.session.device} ({limit.reason}): "
            f"larger batches run in parts of {limit.samples}"
            for limit in list(self._limits.values())
        )
        return (*self.session.notes, *own)

    @property
    def peak_memory_mib(self) -> float | None:
        """The most device memory that the model held so far, None if unknown."""
        peak = None if self.pipe is None else self.pipe.peak
        return None if peak is None else peak.mib

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        limit = self.limit_for(inputs)
        if limit is None:
            try:
                return self.session.run(inputs)
            except Exception as error:
                reason = memory_reason(error)
                if reason is None:
                    raise
            # Only outside of the handler the frames of the failed call, and their memory, are gone.
            limit = self._lower(inputs, reason)
        parts: list[Arrays] = []
        copied = 0.0
        for part in _parts(inputs, limit):
            outputs, seconds = self.run(part)
            parts.append(outputs)
            copied += seconds
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)], copied

    def run_into(self, inputs: Arrays, outputs: Arrays) -> float:
        inner = getattr(self.session, "run_into", None)
        limit = self.limit_for(inputs)
        if limit is None and inner is not None:
            try:
                return float(inner(inputs, outputs))
            except Exception as error:
                reason = memory_reason(error)
                if reason is None:
                    raise
            limit = self._lower(inputs, reason)
        if limit is None:
            return run_and_copy(self.run, inputs, outputs)
        pairs = zip(_parts(inputs, limit), _parts(outputs, limit), strict=True)
        return sum(self.run_into(part, into) for part, into in pairs)

    def limit_for(self, inputs: Arrays) -> int | None:
        """Return the largest number of samples in a call, None if the batch may fit as a whole."""
        if not self._limits:
            return None
        limit = self._limits.get(_shapes(inputs))
        return limit.samples if limit is not None and len(inputs[0]) > limit.samples else None

    def _lower(self, inputs: Arrays, reason: str) -> int:
        size = len(inputs[0])
        free = getattr(self.session, "free_memory", None)
        if free is not None:
            free()
        start = f"{self._backend} ran out of memory on {self.session.device}"
        if self._fixed and size > 1:
            raise EngineError(
                f"{start} with {size} samples, the only batch size that this model was exported for: {reason}. "
                "Use a smaller batch_size, for which it is exported again."
            )
        if size == 1:
            raise EngineError(
                f"{start} with a single sample: {reason}. Free memory of other processes and engines, use a smaller "
                "model or input, or a 16-bit precision."
            )
        shapes = _shapes(inputs)
        with self._lock:
            first = self._limits.get(shapes, _Limit(size, size, reason))
            # Another thread may have found a smaller size meanwhile.
            self._limits[shapes] = first._replace(samples=min(first.samples, size // 2))
            return self._limits[shapes].samples


class _CompletedCall(NamedTuple):
    """A call that ran at once, because it did not fit next to another one or as a whole."""

    begun: float
    outputs: Arrays
    computed: float


class GuardedPipe:
    """The pipe of a session on a device, which runs calls in parts if necessary."""

    def __init__(self, session: OomBackoffSession, pipe: Any) -> None:
        self._session, self._pipe = session, pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def begin(self, inputs: Arrays) -> Any:
        """Begin a call; one that does not fit runs here, and its result waits for :meth:`finish`."""
        if self._session.limit_for(inputs) is None:
            try:
                return self._pipe.begin(inputs)
            except Exception as error:
                if memory_reason(error) is None:
                    raise
        # Tried again alone, because the previous call may have held the missing memory.
        begun = time.perf_counter()
        outputs, copied = self._session.run(inputs)
        return _CompletedCall(begun, outputs, time.perf_counter() - begun - copied)

    def finish(self, flight: Any) -> tuple[Arrays, float, float]:
        """Return the outputs, and the seconds of copying and of waiting for the previous call."""
        if isinstance(flight, _CompletedCall):
            return flight.outputs, time.perf_counter() - flight.begun - flight.computed, 0.0
        result: tuple[Arrays, float, float] = self._pipe.finish(flight)
        return result


def _shapes(inputs: Arrays) -> _Shapes:
    return tuple(array.shape[1:] for array in inputs)


def _parts(arrays: Arrays, size: int) -> list[Arrays]:
    return [[array[start : start + size] for array in arrays] for start in range(0, len(arrays[0]), size)]
