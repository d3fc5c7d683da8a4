"""The files that one ONNX model consists of: the graph, and those that hold its large weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from workbench.core.errors import EngineError
from workbench.core.files import sha256_file
from workbench.core.untrusted import require_regular_file


def read_graph(path: str | Path) -> Any:
    """Return an ONNX model without the weights that lie in files of their own.

    Raises
    ------
    EngineError
        If it cannot be read, or names a weight file outside its folder.
    """
    import onnx

    require_regular_file(Path(path), error=EngineError)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf and onnx raise classes of their own, by version
        raise EngineError(f"{path} is not an ONNX file, or it is damaged.") from error
    weight_files(model, Path(path))
    return model


def weight_files(model: Any, path: Path) -> list[Path]:
    """Return the files beside the model at ``path`` in which it keeps weights.

    Raises
    ------
    EngineError
        If a name leads out of the model's folder, or to something that is no regular file.
    """
    from onnx import external_data_helper as external

    names = {
        entry.value
        for tensor in external._get_all_tensors(model)
        if external.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [_beside(path, name) for name in sorted(names)]


def _beside(path: Path, name: str) -> Path:
    found = path.parent / name
    homes = (path.parent.resolve(), path.resolve().parent)  # a cache of downloads links both files to another folder
    if (
        Path(name).is_absolute()
        or ".." in Path(name).parts
        or not any(found.resolve().is_relative_to(h) for h in homes)
    ):
        raise EngineError(f"{path} keeps weights in {name!r}, which is outside its folder. Do not use this file.")
    require_regular_file(found, error=EngineError)
    return found


def onnx_files(path: str | Path) -> list[Path]:
    """Return an ONNX file and the files beside it in which it keeps weights."""
    return [Path(path), *weight_files(read_graph(path), Path(path))]


def digest_of(files: list[Path]) -> str:
    """Return a hash of the files' contents, in their order."""
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
