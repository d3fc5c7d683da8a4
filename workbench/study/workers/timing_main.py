"""The *time* worker: one engine that is loaded from an artifact, and runs blocks of calls on command."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from workbench.core.allocator import allocator_state
from workbench.core.errors import StudyError, WorkbenchError
from workbench.engine.device import device_index
from workbench.measure.resources.energy import EnergyMeter, measure_energy
from workbench.measure.resources.memory import PeakPss, peak_rss_mib
from workbench.study.workers.protocol import load_arrays, save_arrays
from workbench.tasks.trees import batch_size, concat, slice_batch, tree_map
from workbench.timing.interleave import CallArm
from workbench.timing.settling import warm_until_steady

_EVERY_S = 0.5
_CUDA_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


class TimingWorker:
    """Each public method is a command.

    It imports only what the backend needs, so that the peak memory is that of this backend.
    """

    def __init__(self, backend: str, emit: Callable[..., None]) -> None:
        # import what open() needs now, together with other processes, and not as a part of loading
        import workbench.artifact.artifact
        import workbench.engine.engine  # noqa: F401
        from workbench.engine.backends import require_backend

        self._backend = backend
        self._emit = emit
        self._engine: Any = None
        self._inputs: Any = None
        self._arm: CallArm | None = None
        self._pss = PeakPss()
        with contextlib.suppress(WorkbenchError):  # open() raises the same error
            require_backend(backend)

    def open(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Load the artifact into an engine; ``payload`` is the pickled ``build`` if the backend runs modules."""
        from workbench.artifact import open_artifact
        from workbench.engine.engine import OptimizedInferenceEngine

        build = None
        if payload:
            import cloudpickle

            build = cloudpickle.loads(payload)
        artifact = open_artifact(command["artifact"])
        engine = OptimizedInferenceEngine.from_artifact(
            artifact,
            build=build,
            trust=command["trust"],
            backend=self._backend,
            batch_size=command["batch_size"],
            threads=command["threads"],
            **command["options"],
        )
        self._inputs = tree_map(np.array, load_arrays(command["inputs"]))
        self._engine = engine
        self._pss.read()
        return {
            "cold": {"load_s": engine.load_s, "compile_s": engine.compile_s, "first_call_s": engine.first_call_s},
            "max_abs_diff": engine.max_abs_diff,
            "threads": engine.threads,
            "placement": str(engine.placement),
            "allocator": str(allocator_state()),
            "notes": [str(note) for note in engine.notes],
        }

    def warm(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Run until the latency is steady."""
        calls, steady = warm_until_steady(self._call)
        self._pss.read()
        return {"calls": calls, "steady": steady}

    def block(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Run one block of calls, after settling calls."""
        if self._arm is None:
            self._arm = CallArm(self._backend, self._call)
        return self._arm.block(command["seconds"]).to_dict()

    def memory(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Return the peaks of this process, each with the reason if it is None, and the number of its GPU."""
        rss = peak_rss_mib()
        self._pss.read()
        pss = self._pss.mib, self._pss.reason
        return {"rss": rss, "pss": pss, "allocator": self._allocator(), "gpu": self._gpu()}  # the profiler comes last

    def energy(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Return the energy per sample above the idle machine in mJ with its source, or None with the reason."""
        gpu = self._gpu()
        meter = EnergyMeter(idle_s=command["idle_s"], gpus=() if gpu is None else (gpu,))
        measured = measure_energy(self._call, samples=batch_size(self._inputs), seconds=command["seconds"], meter=meter)
        source, missing = measured.energy.source, measured.energy.reason
        note = f"{source}; the power of the idle machine is subtracted.{f' {missing}' if missing else ''}"
        return {"energy": (measured.energy_mj_per_sample, measured.reason or note)}

    def evaluate(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Run all inputs of a split in batches, and write the joined outputs into ``outputs``."""
        if self._engine is None:
            raise StudyError("A time worker needs the command 'open' before it runs.")
        inputs = load_arrays(command["inputs"])
        size, n, parts, reported = command["batch_size"], batch_size(inputs), [], time.monotonic()
        for start in range(0, n, size):
            chunk = tree_map(np.array, slice_batch(inputs, start, min(start + size, n)))
            # filled up by repetition, because a runtime may compile anew for each batch size
            full = tree_map(lambda leaf: np.resize(leaf, (size, *leaf.shape[1:])), chunk)
            parts.append(slice_batch(self._engine.predict(full).result, 0, min(size, n - start)))
            if time.monotonic() - reported > _EVERY_S:
                reported = time.monotonic()
                done = min(start + size, n)
                message = f"{done} of {n} samples"
                self._emit("progress", stage="evaluate", done=done, total=n, message=message, values={})
        save_arrays(concat(parts), command["outputs"])
        return {"samples": n}

    def _allocator(self) -> tuple[float | None, str]:
        """Return the peak of the runtime's allocator in MiB with a description, or None with the reason."""
        from workbench.engine.backends import runs_module

        if self._engine is None:
            return None, "No engine is open."
        if not runs_module(self._backend):
            return None, f"{self._backend} has no counter of its allocator; only torch has one."
        if self._gpu() is not None:
            peak = self._engine.predict(self._inputs).metrics.peak_memory_mib
            return peak, "Weights and calls, in torch's allocator on the GPU."
        from workbench.measure.resources.memory import torch_call_peak_mib

        try:
            return torch_call_peak_mib(self._call), "Peak of a call in torch's CPU allocator, without the weights."
        except Exception as error:  # noqa: BLE001 - a profiler that fails must not fail the row
            return None, f"torch's profiler could not count it: {type(error).__name__}: {error}"

    def _gpu(self) -> int | None:
        """Return the number of the engine's CUDA device, None on the CPU or without an engine."""
        if self._engine is None:
            return None
        place = self._engine.placement.place
        if place.startswith("cuda"):
            return int(place.partition(":")[2] or 0)
        return device_index(self._engine.config) if place in _CUDA_PROVIDERS else None

    def _call(self) -> object:
        return self._engine.predict(self._inputs)
