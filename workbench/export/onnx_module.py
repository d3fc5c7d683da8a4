"""An ONNX file as a torch module, for models that another library quantized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.export.io import IOSpec, tree_builder


def unoptimized_session(content: bytes, *, threads: int = 0) -> Any:
    """Return an ONNX Runtime session without graph optimizations: roundings as in the file, not as in int8 kernels."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class OnnxModule(nn.Module):
    """Run an ONNX model on the CPU, as the reference that engines are validated against.

    Inputs and outputs are tensors in the structure of ``io``; ``content`` is the file. The module has no parameters.
    """

    def __init__(self, content: bytes, io: IOSpec) -> None:
        super().__init__()
        self.content, self.io = content, io
        self._open()
        self.eval()

    def _open(self) -> None:
        self._session = unoptimized_session(self.content)
        self._build = tree_builder(self.io.output_tree)

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in ("_session", "_build")}
        return {**state, "io": self.io.to_dict()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self.io = IOSpec.from_dict(state["io"])
        self._open()

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """Return the outputs for a batch ``[n, ...]``, without gradients."""
        names = self.io.input_names
        tensors = [named[name] for name in names] if named else list(inputs)
        feed = {n: np.ascontiguousarray(tensor.detach().numpy()) for n, tensor in zip(names, tensors, strict=True)}
        outputs = self._session.run(list(self.io.output_names), feed)
        return self._build([torch.from_numpy(np.array(output)) for output in outputs])

    @property
    def opset(self) -> int:
        """Opset of the file."""
        import onnx

        model = onnx.load_model_from_string(self.content)
        return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
