"""torch.compile: the module through Inductor, compiled while it is loaded."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from typing import Any

from workbench.core.errors import EngineError
from workbench.engine.backends.base import Availability, Capabilities, ModelSource, Session
from workbench.engine.backends.torch.inductor import inductor_options, inductor_status, reason_from
from workbench.engine.backends.torch.session import PRECISIONS, Call, TorchSession
from workbench.engine.config import InferenceConfig

NAME = "torch-compile"
_NO_GRAPHS = "compile_mode='reduce-overhead' records CUDA graphs: on the CPU it is the same as 'default'"


class TorchCompile:
    """The backend that runs what ``torch.compile`` makes of the module."""

    name = NAME
    capabilities = Capabilities(formats=("module",), devices=("cpu", "cuda"), precisions=PRECISIONS, threads="process")

    def status(self) -> Availability:
        """Say whether torch and a C++ compiler are here."""
        return inductor_status(NAME)

    def load(self, source: ModelSource, config: InferenceConfig) -> Session:
        """Compile the module for the configured batch size, which takes seconds to minutes."""
        return CompiledSession(source, config, backend=NAME)


class CompiledSession(TorchSession):
    """A module compiled for the configured batch size, and once more for all others when one of those comes."""

    words = "torch.compile"
    compiles = True

    def _prepare(self, source: ModelSource, config: InferenceConfig) -> Call:
        from workbench.core.quiet import silence_thread
        from workbench.engine.backends.torch.flat_module import FlatModule

        torch = self._torch
        if config.compile_mode == "reduce-overhead" and self.device == "cpu":
            self.notes = (*self.notes, _NO_GRAPHS)
        flat = FlatModule(self._module, source.io)
        _own_scopes(flat)
        options = {**torch._inductor.list_mode_options(config.compile_mode), **inductor_options(source, self.device)}
        # Lengths that are open beside the batch must not count as a new size each.
        open_lengths = any(None in spec.shape for spec in source.io.inputs)
        self._batch = source.io.batch or config.batch_size
        self._each = functools.partial(_compiled, torch, flat, options, dynamic=False)
        self._one_for_all = True
        with silence_thread():  # its import alone warns of what torch itself has deprecated
            self._fixed = _compiled(torch, flat, options, dynamic=None if open_lengths else False)
            self._other = _compiled(torch, flat, options, dynamic=None)
        examples = self._examples(source, self._batch)
        if examples is None:
            return self._dispatch
        try:
            with torch.inference_mode(), silence_thread():
                for _ in range(2):
                    self._dispatch(examples)
        except Exception as error:
            raise EngineError(
                f"torch.compile cannot compile {source.label}: {reason_from(error)}. "
                "Use the backend torch-eager, onnxruntime or openvino."
            ) from error
        return self._dispatch

    def _dispatch(self, tensors: list[Any]) -> Any:
        if self.device != "cpu":
            # The outputs of a recorded graph are written over by its next run; ours have been copied by then.
            self._torch.compiler.cudagraph_mark_step_begin()
        if len(tensors[0]) == self._batch:
            return self._fixed(*tensors)
        if self._one_for_all:
            try:
                return self._any_size(tensors)
            except Exception:  # noqa: BLE001 - what is wrong with the module itself is raised again below
                # Inductor fails on some open sizes (torch 2.13: a number made of the batch size, added to a Linear).
                self._one_for_all, self._other = False, self._each()
        return self._other(*tensors)

    def _any_size(self, tensors: list[Any]) -> Any:
        for tensor in tensors:
            self._torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return self._other(*tensors)

    def close(self) -> None:
        """Free the compiled code too."""
        super().close()
        self._fixed = self._other = self._each = None  # type: ignore[assignment]


def _own_scopes(flat: Any) -> None:
    """Let torch look names up where the code that came by cloudpickle has them, as a study's processes get it.

    torch imports the module that such code names, but no such module is there, or a ``__main__`` that is another.
    """
    left = [f for part in flat.modules() for kind in type(part).__mro__ for f in vars(kind).values()]
    seen: set[int] = set()
    while left:
        scope = getattr(left.pop(), "__globals__", None)
        if scope is None or id(scope) in seen:
            continue
        seen.add(id(scope))
        module = sys.modules.get(scope.get("__name__", ""))
        if module is None or vars(module) is not scope:
            scope.pop("__name__", None)
            left += [value for value in scope.values() if isinstance(value, types.FunctionType)]


def _compiled(torch: Any, flat: Any, options: dict[str, Any], *, dynamic: bool | None) -> Any:
    more: dict[str, Any] = {}
    # Compiled code is counted by the line of Python it came from, which all our engines share: past the eighth, torch
    # would go back to eager without an error.
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        more["isolate_recompiles"] = True
    return torch.compile(flat, dynamic=dynamic, options=options, **more)


BACKEND = TorchCompile()
