"""A module whose computation is an ONNX file: what another library quantized takes part like any other module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.export.io import IOSpec, tree_builder


class OnnxModule(nn.Module):
    """Run an ONNX model through ONNX Runtime on the CPU, without graph optimizations.

    Without them roundings are computed as the file says, not as the int8 kernels of this CPU do: the reference that
    engines are compared with. Inputs and outputs are tensors in the structure of ``io``. It has no parameters.

    Parameters
    ----------
    content : bytes
        The ONNX file.
    io : IOSpec
        What it takes and gives.

    Examples
    --------
    >>> OnnxModule(path.read_bytes(), artifact.io)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, content: bytes, io: IOSpec) -> None:
        super().__init__()
        self.content, self.io = content, io
        self._open()
        self.eval()

    def _open(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        self._session: Any = onnxruntime.InferenceSession(self.content, options, providers=["CPUExecutionProvider"])
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
        given = [named[name] for name in names] if named else list(inputs)
        feed = {name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in zip(names, given, strict=True)}
        outputs = self._session.run(list(self.io.output_names), feed)
        return self._build([torch.from_numpy(np.array(output)) for output in outputs])

    @property
    def opset(self) -> int:
        """The file's opset."""
        import onnx

        model = onnx.load_model_from_string(self.content)
        return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
