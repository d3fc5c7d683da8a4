"""The files that one ONNX model consists of: the graph, and those that hold its large weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from workbench.core.files import sha256_file


def onnx_files(path: str | Path) -> list[Path]:
    """Return an ONNX file and the files beside it in which it keeps weights, by the names that the graph gives them."""
    import onnx

    path = Path(path)
    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [path, *(path.parent / name for name in sorted(names))]


def digest_of(files: list[Path]) -> str:
    """Return a hash of the files' contents, in their order."""
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
