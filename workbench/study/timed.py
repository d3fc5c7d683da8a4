"""Inside a *time* child: one engine, loaded from an artefact, run in blocks when the study hands over the token."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from workbench.core.errors import StudyError, WorkbenchError
from workbench.measure.memory import peak_rss_mib
from workbench.measure.timing import CallArm, warm_until_steady
from workbench.study.wire import load_arrays, save_arrays
from workbench.tasks.trees import batch_size, concat, slice_batch, tree_map

_EVERY_S = 0.5


class TimedEngine:
    """Answers ``open``, ``warm``, ``block``, ``memory`` and ``evaluate``.

    Only what the backend needs is imported, so that the peak memory is that of this backend.
    """

    def __init__(self, backend: str, emit: Callable[..., None]) -> None:
        from workbench.engine.backends import require_backend

        self._backend = backend
        self._emit = emit
        self._engine: Any = None
        self._inputs: Any = None
        with contextlib.suppress(WorkbenchError):  # said by open, which answers with the same error
            require_backend(backend)

    def handlers(self) -> dict[str, Callable[[dict[str, Any], bytes], dict[str, Any]]]:
        """Return the commands by name."""
        return {
            "open": self.open,
            "warm": self.warm,
            "block": self.block,
            "memory": self.memory,
            "evaluate": self.evaluate,
        }

    def open(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Load the artefact into an engine; ``payload`` is the pickled ``build`` where the backend runs modules."""
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
        return {
            "cold": {"load_s": engine.load_s, "compile_s": engine.compile_s, "first_call_s": engine.first_call_s},
            "max_abs_diff": engine.max_abs_diff,
            "threads": engine.threads,
            "placement": str(engine.placement),
            "notes": [str(note) for note in engine.notes],
        }

    def warm(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Run until the time per call is steady."""
        calls, steady = warm_until_steady(self._call)
        return {"calls": calls, "steady": steady}

    def block(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Run one block: ms per call, the settling after the switch left out."""
        arm = CallArm(self._backend, self._call)
        return {"ms": [round(ms, 6) for ms in arm.block(command["seconds"])]}

    def memory(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Return the peak of this process so far."""
        mib, reason = peak_rss_mib()
        return {"mib": mib, "reason": reason}

    def evaluate(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Run all evaluation inputs in batches and write the joined outputs into ``outputs``."""
        inputs = load_arrays(command["inputs"])
        engine, size, n = self._opened(), command["batch_size"], batch_size(inputs)
        found, said = [], time.monotonic()
        for start in range(0, n, size):
            chunk = tree_map(np.array, slice_batch(inputs, start, min(start + size, n)))
            found.append(slice_batch(engine.predict(_filled(chunk, size)).result, 0, min(size, n - start)))
            if time.monotonic() - said > _EVERY_S:
                said = time.monotonic()
                done = min(start + size, n)
                words = f"{done} of {n} samples"
                self._emit("progress", stage="evaluate", done=done, total=n, message=words, values={})
        save_arrays(concat(found), command["outputs"])
        return {"samples": n}

    def _call(self) -> object:
        return self._engine.predict(self._inputs)

    def _opened(self) -> Any:
        if self._engine is None:
            raise StudyError("The timing process was asked to run before it opened an engine.")
        return self._engine


def _filled(chunk: Any, size: int) -> Any:
    """Repeat samples up to ``size``: a runtime that compiles for one batch size would compile again for the rest."""
    return tree_map(lambda leaf: np.resize(leaf, (size, *leaf.shape[1:])), chunk)
