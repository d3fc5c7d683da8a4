"""The torchscript backend: the module traced on example inputs, frozen and optimized. Deprecated in torch."""

from __future__ import annotations

from typing import Any

from workbench.core.errors import EngineError, first_line
from workbench.core.quiet import quiet
from workbench.engine.backends.base import ModelSource
from workbench.engine.backends.torch.session import Call, TorchBackend, TorchSession
from workbench.engine.config import InferenceConfig

DEPRECATED = "TorchScript is deprecated in torch, and may be removed"
_OTHERS = "Use the backend torch-eager or torch-compile."


class ScriptSession(TorchSession):
    """A trace of the module, verified against it."""

    title = "TorchScript"
    compiles = True

    def _prepare(self, source: ModelSource, config: InferenceConfig) -> Call:
        from workbench.engine.backends.torch.modules import FlatModule, first_disagreement

        flat = FlatModule(self._module, source.io)
        size = source.io.batch or config.batch_size
        examples = self._require_examples(source, size)
        try:
            script = _traced(self._torch, flat, examples)
        except Exception as error:
            raise EngineError(
                f"TorchScript cannot trace {source.label}: {first_line(error).rstrip('.')}. {_OTHERS}"
            ) from error
        sizes = [size] if source.io.batch is not None else [size, size + 1]
        batches = [self._require_examples(source, count) for count in sizes]
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
        self._note(DEPRECATED)
        return lambda tensors: script(*tensors)


def _traced(torch: Any, flat: Any, examples: list[Any]) -> Any:
    from torch.jit._trace import TracerWarning

    from workbench.compress.model_ops import without_fast_path

    # The deprecation is a note of the session; constants in the trace, of which torch warns, are checked.
    deprecated = {"message": r"`torch\.jit\.\w+` is deprecated", "category": DeprecationWarning}
    silent = quiet(warnings=(deprecated, {"category": TracerWarning}))
    with torch.inference_mode(), silent, without_fast_path():  # fused encoder layers cannot be traced
        traced = torch.jit.trace(flat, tuple(examples), check_trace=False)
        return torch.jit.optimize_for_inference(torch.jit.freeze(traced))


BACKEND = TorchBackend("torchscript", ScriptSession)
