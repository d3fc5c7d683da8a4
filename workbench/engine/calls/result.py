"""Result and metrics of a call."""

from __future__ import annotations

from typing import Any, NamedTuple


class InferenceMetrics(NamedTuple):
    """Times of one call in milliseconds, and its place.

    ``queue_ms`` is the wait while other threads use the engine; ``copy_ms`` is checking, converting and copying inputs
    and outputs; ``compute_ms`` is time inside the runtime; ``total_ms`` is the whole call. ``batch_size`` is the number
    of samples. ``peak_memory_mib`` is the most device memory since loading, by torch's allocator on a GPU; None
    elsewhere.
    """

    queue_ms: float
    copy_ms: float
    compute_ms: float
    total_ms: float
    batch_size: int
    device: str
    backend: str
    peak_memory_mib: float | None = None

    @property
    def inference_time_ms(self) -> float:
        """Time inside the runtime, equal to ``compute_ms``."""
        return self.compute_ms


def metrics_of(
    queued: float, computed: float, total: float, size: int, device: str, backend: str, peak_mib: float | None = None
) -> InferenceMetrics:
    """Return the metrics of a call from times in seconds; the rest of ``total`` is copying."""
    copied = total - queued - computed
    return InferenceMetrics(queued * 1e3, copied * 1e3, computed * 1e3, total * 1e3, size, device, backend, peak_mib)


class InferenceResult(NamedTuple):
    """Outputs in the eager model's structure (arrays owned by the caller), and the metrics of the call."""

    result: Any
    metrics: InferenceMetrics
