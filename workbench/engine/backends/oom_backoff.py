"""A batch that does not fit into memory is halved until it does, and the size that fits is remembered. numpy only."""

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

_WORDS = re.compile(
    r"out of memory|bad[_ ]alloc|not enough memory|(failed|unable) to allocate (memory|[\d.]+ \w+)"
    r"|can('t|not) allocate memory|smaller than requested bytes|STATUS_ALLOC_FAILED|CL_OUT_OF|OUT_OF_HOST_MEMORY"
    r"|CL_MEM_OBJECT_ALLOCATION_FAILURE|out of GPU resources|exceeded max size of memory object allocation",
    re.IGNORECASE,
)
"""What runtimes say: torch, CUDA's libraries, ONNX Runtime, OpenVINO and its OpenCL, and C++ itself."""

LONGEST = 120
"""Characters of a runtime's words in a message: torch goes on for several sentences."""

_Shapes = tuple[tuple[int, ...], ...]


class _Limit(NamedTuple):
    """The samples that did not fit at first, those that are tried since, and what the runtime said at first."""

    failed: int
    samples: int
    reason: str


def memory_reason(error: BaseException) -> str | None:
    """Return in what words an error says that there is no memory left, None where it says something else.

    Examples
    --------
    >>> memory_reason(RuntimeError("Check failed\\nFailed to allocate 4096 bytes of memory"))
    'Failed to allocate 4096 bytes of memory'
    """
    for line in str(error).splitlines():
        if found := _WORDS.search(line):
            return textwrap.shorten(line[found.start() :], LONGEST, placeholder=" ...")
    named = isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return textwrap.shorten(first_line(error), LONGEST, placeholder=" ...") if named else None


class OomBackoffSession:
    """A session that runs a batch which does not fit into memory in parts.

    The batch is halved until it fits. What fits is remembered for inputs of these shapes, and used from the start by
    all further calls. Everything else is the session's own.

    Parameters
    ----------
    session
        What runs the model.
    backend
        Its name, for messages.
    fixed
        Whether the model takes one batch size only: there is nothing to halve then.
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
        """What the session says, and the sizes that did not fit."""
        return (*self.session.notes, *self._own_notes())

    @notes.setter
    def notes(self, notes: tuple[str, ...]) -> None:
        own = self._own_notes()
        self.session.notes = tuple(note for note in notes if note not in own)

    @property
    def peak_memory_mib(self) -> float | None:
        """The most device memory that the model held so far, None where that is not known."""
        peak = None if self.pipe is None else self.pipe.peak
        return None if peak is None else peak.mib

    def _own_notes(self) -> list[str]:
        return sorted(
            f"{self._backend} ran out of memory with {limit.failed} samples on {self.session.device} ({limit.reason}): "
            f"larger batches run in parts of {limit.samples}"
            for limit in list(self._limits.values())
        )

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        """Run one batch, in parts where it has to be."""
        limit = self.limit_for(inputs)
        if limit is None:
            try:
                return self.session.run(inputs)
            except Exception as error:
                reason = memory_reason(error)
                if reason is None:
                    raise
            # Only here are the frames of the failed call gone, and the memory that they held.
            limit = self._lower(inputs, reason)
        parts: list[Arrays] = []
        copied = 0.0
        for part in _parts(inputs, limit):
            outputs, seconds = self.run(part)
            parts.append(outputs)
            copied += seconds
        return [np.concatenate(found) for found in zip(*parts, strict=True)], copied

    def run_into(self, inputs: Arrays, outputs: Arrays) -> float:
        """Run one batch into the caller's arrays, in parts where it has to be."""
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
        """Return the samples to which a batch has to be cut, None where it fits or was never seen to fail."""
        if not self._limits:
            return None
        limit = self._limits.get(_shapes(inputs))
        return limit.samples if limit is not None and len(inputs[0]) > limit.samples else None

    def _lower(self, inputs: Arrays, reason: str) -> int:
        size = len(inputs[0])
        free = getattr(self.session, "free_memory", None)
        if free is not None:
            free()
        if size == 1 or self._fixed:
            raise EngineError(self._hopeless(size, reason))
        shapes = _shapes(inputs)
        with self._lock:
            first = self._limits.get(shapes, _Limit(size, size, reason))
            # Another thread may have come to a smaller size meanwhile.
            self._limits[shapes] = first._replace(samples=min(first.samples, size // 2))
            return self._limits[shapes].samples

    def _hopeless(self, size: int, reason: str) -> str:
        where = f"{self._backend} ran out of memory on {self.session.device}"
        if self._fixed and size > 1:
            return (
                f"{where} with {size} samples, the only batch size that this model was exported for: {reason}. "
                "Use a smaller batch_size, for which it is exported again."
            )
        return (
            f"{where} with a single sample: {reason}. Free what other processes and engines hold there, use a smaller "
            "model or input, or a 16-bit precision."
        )


class _Done(NamedTuple):
    """A call that was not begun but run, since it did not fit beside another or as a whole."""

    begun: float
    outputs: Arrays
    computed: float


class GuardedPipe:
    """The pipe of a session on a device, with calls run in parts where they have to be."""

    def __init__(self, session: OomBackoffSession, pipe: Any) -> None:
        self._session, self._pipe = session, pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def begin(self, inputs: Arrays) -> Any:
        """Send a batch on its way; one that does not fit is run here, and its result waits for :meth:`finish`."""
        if self._session.limit_for(inputs) is None:
            try:
                return self._pipe.begin(inputs)
            except Exception as error:
                if memory_reason(error) is None:
                    raise
        # Tried again alone: the call before may have held what was missing.
        begun = time.perf_counter()
        outputs, copied = self._session.run(inputs)
        return _Done(begun, outputs, time.perf_counter() - begun - copied)

    def finish(self, flight: Any) -> tuple[Arrays, float, float]:
        """Return the outputs, and the seconds spent on copies and on waiting for the call before."""
        if isinstance(flight, _Done):
            return flight.outputs, time.perf_counter() - flight.begun - flight.computed, 0.0
        found: tuple[Arrays, float, float] = self._pipe.finish(flight)
        return found


def _shapes(inputs: Arrays) -> _Shapes:
    return tuple(array.shape[1:] for array in inputs)


def _parts(arrays: Arrays, size: int) -> list[Arrays]:
    return [[array[start : start + size] for array in arrays] for start in range(0, len(arrays[0]), size)]
