"""The protocol between a study and its workers, and arrays in files that both can read without torch.

Commands go to the worker's standard input as frames: two lengths, JSON, and bytes. Events come back as JSON lines on an
inherited descriptor, each with its name under ``event``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from workbench.core.files import atomic_write, write_json
from workbench.export.io import describe_tree, tree_builder
from workbench.study.plan.shapes import OperatingPoint

_HEADER = struct.Struct("!IQ")


def write_frame(stream: IO[bytes], message: Mapping[str, Any], payload: bytes = b"") -> None:
    """Write one command with an optional payload, and flush."""
    text = json.dumps(message).encode()
    stream.write(_HEADER.pack(len(text), len(payload)) + text)
    stream.write(payload)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Return the next command and its payload, or None at the end of the stream."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    text_size, payload_size = _HEADER.unpack(header)
    text, payload = stream.read(text_size), stream.read(payload_size)
    if len(text) < text_size or len(payload) < payload_size:
        return None
    return json.loads(text), payload


def examples_folder(folder: Path, point: OperatingPoint) -> Path:
    """Return the folder of the inputs of one timed call."""
    return folder / "-".join((f"batch-{point.batch}", *(f"{name}-{size}" for name, size in point.shape)))


def save_arrays(tree: Any, folder: str | Path) -> Path:
    """Write nested numpy arrays with their structure, one ``.npy`` per array; return the folder."""
    folder = Path(folder)
    description, arrays = describe_tree(tree, lambda node: isinstance(node, np.ndarray))
    for index, (_, array) in enumerate(arrays):
        with atomic_write(folder / f"{index}.npy") as path:
            np.save(path, array, allow_pickle=False)
    write_json(folder / "tree.json", {"tree": description, "arrays": len(arrays)})
    return folder


def load_arrays(folder: str | Path, *, mmap: bool = True) -> Any:
    """Return nested arrays that :func:`save_arrays` wrote, memory-mapped by default."""
    folder = Path(folder)
    content = json.loads((folder / "tree.json").read_text(encoding="utf-8"))
    mode: Any = "r" if mmap else None
    arrays = [np.load(folder / f"{i}.npy", mmap_mode=mode, allow_pickle=False) for i in range(content["arrays"])]
    return tree_builder(content["tree"])(arrays)
