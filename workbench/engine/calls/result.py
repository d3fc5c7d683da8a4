"""What predict gives back."""

from __future__ import annotations

from typing import Any, NamedTuple


class InferenceMetrics(NamedTuple):
    """Where the time of one call went, in milliseconds.

    ``queue_ms`` waiting for the engine while another thread used it, ``copy_ms`` checking, converting and copying
    inputs and outputs, ``compute_ms`` inside the runtime; ``total_ms`` is the whole call.
    ``batch_size`` is the number of samples that the call carried. ``peak_memory_mib`` is the most device memory that
    the engine held since it was loaded, as torch's allocator counts it on a GPU; None elsewhere.
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
        """Time inside the runtime: the same as ``compute_ms``."""
        return self.compute_ms


def metrics_of(
    queued: float, computed: float, total: float, size: int, device: str, backend: str, peak_mib: float | None = None
) -> InferenceMetrics:
    """Return the metrics of a call from its times in seconds; what is neither queue nor compute is copy."""
    copied = total - queued - computed
    return InferenceMetrics(queued * 1e3, copied * 1e3, computed * 1e3, total * 1e3, size, device, backend, peak_mib)


class InferenceResult(NamedTuple):
    """Outputs in the eager model's structure (arrays the caller owns) and the metrics of the call."""

    result: Any
    metrics: InferenceMetrics
