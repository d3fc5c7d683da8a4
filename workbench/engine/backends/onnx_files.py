"""Files of one ONNX model, and the cache of graphs that ONNX Runtime has optimized."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.core.config import short_id
from workbench.core.errors import EngineError, WorkbenchError
from workbench.core.files import atomic_write, cache_dir, sha256_file
from workbench.core.machine import this_machine
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


FOLDER = "onnxruntime-graphs"
LIMIT_MIB = 1024
_LARGEST_MIB = 1800  # an ONNX file ends at 2 GiB


def cached_graph(files: list[Path], *, version: str, settings: dict[str, Any]) -> Path:
    """Return the path of the optimized graph of a model, which may not exist yet.

    The key contains the model's files, ONNX Runtime's version, the settings and the CPU's instruction sets, because
    weights are arranged for one CPU.
    """
    key = {
        "model": digest_of(files),
        "version": version,
        "settings": settings,
        "cpu": [this_machine().cpu_model, *this_machine().isa],
    }
    return cache_dir() / FOLDER / f"{short_id(key)}.onnx"


def too_large(files: list[Path]) -> bool:
    """Return whether the optimized graph of a model might not fit into one ONNX file."""
    return sum(file.stat().st_size for file in files) > _LARGEST_MIB * 2**20


@contextlib.contextmanager
def writing_graph(target: Path) -> Iterator[Path]:
    """Yield the path to write a graph to; at the end it replaces ``target``, and old graphs are evicted."""
    with atomic_write(target) as temporary:
        yield temporary
        if not temporary.stat().st_size:
            raise WorkbenchError("ONNX Runtime wrote no graph")
    _evict(target)


def _evict(newest: Path) -> None:
    """Remove the least recently used graphs beyond the limit."""
    room = LIMIT_MIB * 2**20
    with contextlib.suppress(OSError):  # another process may remove the same files
        files = sorted(newest.parent.glob("[!.]*.onnx"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files:
            room -= file.stat().st_size
            if room < 0 and file != newest:
                file.unlink(missing_ok=True)


def touch(graph: Path) -> None:
    """Mark a graph as used now."""
    with contextlib.suppress(OSError):
        os.utime(graph)
