"""Cache of graphs optimized by ONNX Runtime, for faster loading."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.core.config import short_id
from workbench.core.errors import WorkbenchError
from workbench.core.files import atomic_write, cache_dir
from workbench.core.machine import this_machine
from workbench.engine.backends.onnx_files import digest_of

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
