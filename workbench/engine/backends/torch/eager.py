"""The torch-eager backend: the module in inference mode. The baseline of every comparison."""

from __future__ import annotations

from typing import Any

from workbench.engine.backends.base import ModelSource
from workbench.engine.backends.oom_backoff import memory_reason
from workbench.engine.backends.torch.session import Call, TorchBackend, TorchSession
from workbench.engine.config import InferenceConfig


class EagerSession(TorchSession):
    """The module without compilation."""

    title = "torch eager"

    def _prepare(self, source: ModelSource, config: InferenceConfig) -> Call:
        from workbench.engine.backends.torch.modules import flat_call

        call = flat_call(self._module, source.io)
        if not config.cuda_graph:
            return call
        from workbench.engine.backends.torch.cuda import ONLY_CUDA, GraphedCall

        if self.pipe is None:
            self._note(ONLY_CUDA)
            return call
        graphed = GraphedCall(call, self.device, note=self._note)
        examples = self._examples(source, source.io.batch or config.batch_size)
        if examples is not None:  # the graph of the configured batch size is recorded now
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


BACKEND = TorchBackend("torch-eager", EagerSession)
