"""The torch-compile backend: the module compiled by Inductor at loading."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import shutil
import sys
import types
from typing import Any

from workbench.core.errors import EngineError, first_line
from workbench.engine.backends.base import Availability, ModelSource
from workbench.engine.backends.torch.session import Call, TorchBackend, TorchSession, torch_status
from workbench.engine.config import InferenceConfig

_COMPILERS = {"darwin": ("clang++", "xcode-select --install"), "linux": ("g++", "sudo apt-get install g++")}


def inductor_status(name: str) -> Availability:
    """Return whether torch and a C++ compiler, which Inductor calls, are installed."""
    status = torch_status(name)
    usual, how = _COMPILERS.get(sys.platform, _COMPILERS["linux"])
    compiler = os.environ.get("CXX", usual)
    if not status.available or shutil.which(compiler) is not None:
        return status
    reason = f"it needs a C++ compiler, and {compiler!r} is not on the PATH"
    return dataclasses.replace(status, available=False, reason=reason, how=how)


def reason_from(error: BaseException) -> str:
    """Return the first line of an error; Inductor wraps the original exception."""
    inner = getattr(error, "inner_exception", None)
    return first_line(inner if isinstance(inner, BaseException) else error).rstrip(".")


def inductor_options(source: ModelSource, device: str) -> dict[str, Any]:
    """Return Inductor's options: frozen weights for float models on the CPU.

    For a quantized model freezing selects integer kernels, which are wrong on CPUs without VNNI and failed to compile
    on one with it (torch 2.13). Such a model runs as simulated.
    """
    return {"freezing": device == "cpu" and not source.quantized}


_NO_GRAPHS = "compile_mode='reduce-overhead' records CUDA graphs: on the CPU it is the same as 'default'"


class CompiledSession(TorchSession):
    """A module compiled for the configured batch size, and on demand once more for all other sizes."""

    title = "torch.compile"
    compiles = True

    def _prepare(self, source: ModelSource, config: InferenceConfig) -> Call:
        from workbench.core.quiet import silence_thread
        from workbench.engine.backends.torch.modules import FlatModule

        torch = self._torch
        if config.compile_mode == "reduce-overhead" and self.device == "cpu":
            self._note(_NO_GRAPHS)
        flat = FlatModule(self._module, source.io)
        _detach_missing_modules(flat)
        options = {**torch._inductor.list_mode_options(config.compile_mode), **inductor_options(source, self.device)}
        # Each open length must not count as a new size.
        open_lengths = any(None in spec.shape for spec in source.io.inputs)
        self._batch = source.io.batch or config.batch_size
        self._each = functools.partial(_compiled, torch, flat, options, dynamic=False)
        self._one_for_all = True
        with silence_thread():  # its import alone warns of deprecations inside torch
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
            # The next run of a recorded graph overwrites its outputs, which have been copied by then.
            self._torch.compiler.cudagraph_mark_step_begin()
        if len(tensors[0]) == self._batch:
            return self._fixed(*tensors)
        if self._one_for_all:
            try:
                for tensor in tensors:
                    self._torch._dynamo.maybe_mark_dynamic(tensor, 0)
                return self._other(*tensors)
            except Exception:  # noqa: BLE001 - errors of the module itself are raised again below
                # Inductor fails on some open sizes (torch 2.13: a number computed from the batch size in a Linear).
                self._one_for_all, self._other = False, self._each()
        return self._other(*tensors)

    def close(self) -> None:
        super().close()
        self._fixed = self._other = self._each = None  # type: ignore[assignment]


def _detach_missing_modules(flat: Any) -> None:
    """Make torch resolve names of cloudpickled code in its own globals.

    Torch imports the module that such code names, which is missing or, for ``__main__``, another one.
    """
    functions = [f for part in flat.modules() for kind in type(part).__mro__ for f in vars(kind).values()]
    visited: set[int] = set()
    while functions:
        scope = getattr(functions.pop(), "__globals__", None)
        if scope is None or id(scope) in visited:
            continue
        visited.add(id(scope))
        module = sys.modules.get(scope.get("__name__", ""))
        if module is None or vars(module) is not scope:
            scope.pop("__name__", None)
            functions += [value for value in scope.values() if isinstance(value, types.FunctionType)]


def _compiled(torch: Any, flat: Any, options: dict[str, Any], *, dynamic: bool | None) -> Any:
    # Torch counts compilations by line of Python code, which all engines share, and runs eagerly from the ninth on
    # without an error, unless recompiles are isolated.
    isolated = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    keywords = {"isolate_recompiles": True} if isolated else {}
    return torch.compile(flat, dynamic=dynamic, options=options, **keywords)


BACKEND = TorchBackend("torch-compile", CompiledSession, inductor_status)
