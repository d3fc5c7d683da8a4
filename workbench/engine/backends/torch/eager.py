"""The torch-eager backend: the module in inference mode. The baseline of every comparison."""

from __future__ import annotations

from typing import Any

from workbench.engine.backends.base import ModelSource
from workbench.engine.backends.oom_backoff import memory_reason
from workbench.engine.backends.torch.session import Call, TorchBackend, TorchSession, flat_call
from workbench.engine.config import InferenceConfig


class EagerSession(TorchSession):
    """The module without compilation."""

    title = "torch eager"

    def _prepare(self, source: ModelSource, config: InferenceConfig) -> Call:
        call = flat_call(self._module, source.io)
        return self._graphed(call, source, config) if config.cuda_graph else call

    def _graphed(self, call: Call, source: ModelSource, config: InferenceConfig) -> Call:
        """Return a call by recorded graphs; the graph of the configured batch size is recorded now."""
        from workbench.engine.backends.cuda.graphs import ONLY_CUDA, GraphedCall

        if self.pipe is None:
            self.notes = (*self.notes, ONLY_CUDA)
            return call
        graphed = GraphedCall(call, self.device, note=self._note)
        examples = self._examples(source, source.io.batch or config.batch_size)
        if examples is not None:
            self._record(graphed, examples)
        return graphed

    def _record(self, graphed: Call, examples: list[Any]) -> None:
        try:
            with self._torch.inference_mode():
                for _ in range(2):
                    graphed(examples)
        except Exception as error:
            if memory_reason(error) is None:  # otherwise later calls find the size that fits
                raise

    def _note(self, note: str) -> None:
        self.notes = (*self.notes, note)


BACKEND = TorchBackend("torch-eager", EagerSession)
