"""The aot-inductor backend: the module exported and compiled into a shared library, without Python in a call.

The library is code: it is only loaded from a temporary folder of the engine.
"""

from __future__ import annotations

from typing import Any

from workbench.core.errors import EngineError, ExportError
from workbench.engine.backends.base import ModelSource
from workbench.engine.backends.torch.compile import inductor_options, inductor_status, reason_from
from workbench.engine.backends.torch.session import Call, TorchBackend, TorchSession
from workbench.engine.config import InferenceConfig

FIXED = "AOTInductor cannot keep this module's batch size open: it compiles again for every batch size"


class AotSession(TorchSession):
    """A library for all batch sizes, or one for each if the module's code fixes them."""

    title = "AOTInductor"
    compiles = True

    def _prepare(self, source: ModelSource, config: InferenceConfig) -> Call:
        from workbench.core.files import TemporaryFolder
        from workbench.engine.backends.torch.modules import FlatModule, first_disagreement
        from workbench.tasks.axes import alternative_sizes, resize

        self._flat = FlatModule(self._module, source.io)
        self._folder = TemporaryFolder()
        self._label, self._options = source.label, inductor_options(source, self.device)
        self._runners: dict[tuple[Any, ...], Any] = {}
        self._dims = source.io.open_dims
        size = source.io.batch or config.batch_size
        examples = self._require_examples(source, max(size, 2))
        first = [tensor[:size] for tensor in examples]
        if source.io.batch is None and (runner := self._for_all(examples)) is not None:
            larger = self._require_examples(source, size + 1)
            batches = [first, larger, resize(larger, self._dims, alternative_sizes(larger, self._dims))]
            limits = {"quantized": source.quantized, "tolerance": self.tolerance}
            if first_disagreement(self._flat, runner, batches, **limits) is None:
                return lambda tensors: runner(*tensors)
        if source.io.batch is None:
            self._note(FIXED)
        with self._torch.inference_mode():
            self._each(first)
        return self._each

    def _for_all(self, examples: list[Any]) -> Any:
        """Return a library for any batch size, None if the module's code or Inductor fixes it."""
        dim = self._torch.export.Dim
        batch = dim("batch")
        shapes = tuple({0: batch, **dict.fromkeys(axes, dim.DYNAMIC)} for axes in self._dims)
        try:
            return self._compile(examples, {"tensors": shapes})
        except ExportError as error:
            if "batch size" in str(error):
                return None
            raise
        except EngineError:  # it may compile for one size, or raise the reason
            return None

    def _each(self, tensors: list[Any]) -> Any:
        sizes = tuple(tuple(tensor.shape) for tensor in tensors)
        if sizes not in self._runners:
            self._runners[sizes] = self._compile(tensors, None)
        return self._runners[sizes](*tensors)

    def _compile(self, examples: list[Any], shapes: Any) -> Any:
        from workbench.core.quiet import silence_thread
        from workbench.export.capture import export_program, reason_of

        inductor = self._torch._inductor
        path = str(self._folder.path / f"{'any' if shapes else len(self._runners)}.pt2")
        # The exporter cannot trace tensors made in inference mode.
        with self._torch.inference_mode(False), self._torch.no_grad(), silence_thread():
            try:
                program = export_program(self._flat, tuple(tensor.clone() for tensor in examples), {}, shapes)
            except Exception as error:
                raise ExportError(f"AOTInductor cannot export {self._label}: {reason_of(error)}") from error
            try:
                inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=self._options)
                return inductor.aoti_load_package(path)
            except Exception as error:
                raise EngineError(
                    f"AOTInductor cannot compile {self._label}: {reason_from(error)}. "
                    "Use the backend torch-eager, onnxruntime or openvino."
                ) from error

    def close(self) -> None:
        super().close()
        self._flat = self._folder = None  # type: ignore[assignment]
        self._runners = {}


BACKEND = TorchBackend("aot-inductor", AotSession, inductor_status)
