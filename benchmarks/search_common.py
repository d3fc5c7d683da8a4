"""What the searches of the search benchmark share: the question, what all tools get, and what one chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cifar import cifar10_held_out
from workbench.compress.variant import Variant
from workbench.export.onnx import export_onnx
from workbench.tasks import Task

ROOT = Path(__file__).parents[1]
INPUT, BATCH, LIMIT = "x", 32, 0.01
CALIBRATION = 300
"""Images that NNCF takes by default; Olive and NNCF draw them by the seed."""
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a tool chose with one seed: ``options`` of the engine that it is for, and its file, None where none held.

    ``validation_drop`` and ``own_ms`` are the tool's own figures. ``by_itself`` is False where the time ended it.
    """

    tool: str
    seed: int
    words: str
    options: dict[str, Any]
    model: str | None
    seconds: float
    limit_s: float
    tried: int
    by_itself: bool
    validation_drop: float | None = None
    own_ms: float | None = None
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def nothing(cls, tool: str, seed: int, seconds: float, limit_s: float, **more: Any) -> Candidate:
        """Return what stands where a tool found no point within the limit."""
        return cls(tool, seed, "nothing within the limit", {}, None, seconds, limit_s, **more)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all tools get alike: the task, the float model as ONNX, the images as a file, threads and seconds."""

    task: Task
    onnx: Path
    arrays: Path
    threads: int
    seconds: float
    olive: Path | None = None


def prepare(work: Path, threads: int, seconds: float) -> Setting:
    """Write the float model and the images that other processes read, where they are not there yet."""
    task, common = cifar10_held_out(), work / "common"
    common.mkdir(parents=True, exist_ok=True)
    onnx, arrays = common / "float.onnx", common / "images.npz"
    if not onnx.exists():
        temporary = common / "float.tmp.onnx"
        export_onnx(Variant.original(task).module, task.examples(2), temporary, names=(INPUT,), batch=1)
        temporary.replace(onnx)
    if not arrays.exists():
        kept = {}
        for name in ("calibration", "validation"):
            split = task.split(name)
            kept |= {f"{name}_images": split.inputs.numpy(), f"{name}_labels": split.targets.numpy()}
        np.savez(common / "images.tmp.npz", **kept)
        (common / "images.tmp.npz").replace(arrays)
    return Setting(task, onnx, arrays, threads, seconds)
