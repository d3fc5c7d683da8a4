"""The torchscript backend: the module traced on example inputs, frozen and optimized. Deprecated in torch."""

from __future__ import annotations

import contextlib
from typing import Any

from workbench.core.errors import EngineError, first_line
from workbench.core.quiet import quiet
from workbench.engine.backends.base import ModelSource
from workbench.engine.backends.torch.session import Call, TorchBackend, TorchSession
from workbench.engine.config import InferenceConfig

NAME = "torchscript"
DEPRECATED = "TorchScript is deprecated in torch, and may be removed"
_OTHERS = "Use the backend torch-eager or torch-compile."


class ScriptSession(TorchSession):
    """A trace of the module, verified against it."""

    title = "TorchScript"
    compiles = True

    def _prepare(self, source: ModelSource, config: InferenceConfig) -> Call:
        from workbench.engine.backends.torch.flat_module import FlatModule, first_disagreement, require_examples

        flat = FlatModule(self._module, source.io)
        size = source.io.batch or config.batch_size
        examples = require_examples(self._examples(source, size), source.label, NAME)
        try:
            script = _traced(self._torch, flat, examples)
        except Exception as error:
            raise EngineError(
                f"TorchScript cannot trace {source.label}: {first_line(error).rstrip('.')}. {_OTHERS}"
            ) from error
        sizes = [size] if source.io.batch is not None else [size, size + 1]
        batches = [require_examples(self._examples(source, count), source.label, NAME) for count in sizes]
        problem = first_disagreement(flat, script, batches, quantized=source.quantized, tolerance=self.tolerance)
        if problem is not None:
            raise EngineError(
                f"TorchScript traces {source.label} wrongly, {problem.rstrip('.')}. Its code depends on values or "
                f"sizes that a trace turns into constants. {_OTHERS}"
            )
        # The trace is compiled in its first calls, without and with their profile.
        with self._torch.inference_mode():
            for _ in range(3):
                script(*examples)
        self.notes = (*self.notes, DEPRECATED)
        return lambda tensors: script(*tensors)


def _traced(torch: Any, flat: Any, examples: list[Any]) -> Any:
    from workbench.compress.model_ops import without_fast_path

    with torch.inference_mode(), _quiet(), without_fast_path():  # fused encoder layers cannot be traced
        traced = torch.jit.trace(flat, tuple(examples), check_trace=False)
        return torch.jit.optimize_for_inference(torch.jit.freeze(traced))


def _quiet() -> contextlib.AbstractContextManager[None]:
    """Silence the deprecation of TorchScript, which is a note, and the warnings of constants, which are checked."""
    from torch.jit._trace import TracerWarning

    deprecated = {"message": r"`torch\.jit\.\w+` is deprecated", "category": DeprecationWarning}
    return quiet(warnings=(deprecated, {"category": TracerWarning}))


BACKEND = TorchBackend(NAME, ScriptSession)
