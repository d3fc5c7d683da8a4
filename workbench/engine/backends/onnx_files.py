"""Files of one ONNX model: the graph, and external weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from workbench.core.errors import EngineError
from workbench.core.files import sha256_file
from workbench.core.untrusted import require_regular_file


def read_graph(path: str | Path) -> Any:
    """Return an ONNX model without its external weights; raise EngineError for a damaged or unsafe file."""
    import onnx

    require_regular_file(Path(path), error=EngineError)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf and onnx raise classes of their own, by version
        raise EngineError(f"{path} is not an ONNX file, or it is damaged.") from error
    weight_files(model, Path(path))
    return model


def weight_files(model: Any, path: Path) -> list[Path]:
    """Return the external weight files of the model at ``path``; raise EngineError for one outside of its folder."""
    from onnx import external_data_helper as external

    names = {
        entry.value
        for tensor in external._get_all_tensors(model)
        if external.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [_inside_folder(path, name) for name in sorted(names)]


def _inside_folder(path: Path, name: str) -> Path:
    file = path.parent / name
    homes = (path.parent.resolve(), path.resolve().parent)  # download caches link both files to another folder
    inside = any(file.resolve().is_relative_to(home) for home in homes)
    if Path(name).is_absolute() or ".." in Path(name).parts or not inside:
        raise EngineError(f"{path} keeps weights in {name!r}, which is outside its folder. Do not use this file.")
    require_regular_file(file, error=EngineError)
    return file


def onnx_files(path: str | Path) -> list[Path]:
    """Return an ONNX file and its external weight files."""
    return [Path(path), *weight_files(read_graph(path), Path(path))]


def digest_of(files: list[Path]) -> str:
    """Return a hash of the contents of files, in their order."""
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
