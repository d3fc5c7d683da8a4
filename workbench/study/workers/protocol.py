"""What goes between a study and its child processes, and arrays in files that both can read without torch.

To the child, on its standard input: frames of two lengths, JSON, and bytes. From the child, on an inherited
descriptor: JSON lines, each an event with its name under ``event``.
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

_HEADER = struct.Struct("!IQ")


def write_frame(stream: IO[bytes], message: Mapping[str, Any], payload: bytes = b"") -> None:
    """Write one command with an optional payload, and flush."""
    text = json.dumps(message).encode()
    stream.write(_HEADER.pack(len(text), len(payload)) + text)
    stream.write(payload)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Return the next command and its payload, or None where the stream has ended."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    text_size, payload_size = _HEADER.unpack(header)
    text, payload = stream.read(text_size), stream.read(payload_size)
    if len(text) < text_size or len(payload) < payload_size:
        return None
    return json.loads(text), payload


def save_arrays(tree: Any, folder: str | Path) -> Path:
    """Write nested numpy arrays as one ``.npy`` per array with their structure; return the folder."""
    folder = Path(folder)
    description, found = describe_tree(tree, lambda node: isinstance(node, np.ndarray))
    for index, (_, array) in enumerate(found):
        with atomic_write(folder / f"{index}.npy") as path:
            np.save(path, array, allow_pickle=False)
    write_json(folder / "tree.json", {"tree": description, "arrays": len(found)})
    return folder


def load_arrays(folder: str | Path, *, mmap: bool = True) -> Any:
    """Return nested arrays that :func:`save_arrays` wrote; memory-mapped, so that only what is used is read."""
    folder = Path(folder)
    known = json.loads((folder / "tree.json").read_text(encoding="utf-8"))
    mode: Any = "r" if mmap else None
    arrays = [np.load(folder / f"{i}.npy", mmap_mode=mode, allow_pickle=False) for i in range(known["arrays"])]
    return tree_builder(known["tree"])(arrays)
