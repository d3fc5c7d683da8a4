"""Keys of a study: 12 hex digits that name an artifact, or a trial on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.core.config import short_id
from workbench.core.machine import FINGERPRINT_LIBRARIES, Site, fingerprint_id
from workbench.study.plan.shapes import OperatingPoint, shape_words


def artifact_key(recipe_id: str, task_fingerprint: str, libraries: Mapping[str, str | None], *, int8_dot: bool) -> str:
    """Return the key of the artifact of a recipe and a task, with these libraries, for this kind of CPU."""
    return short_id(
        {
            "recipe": recipe_id,
            "task": task_fingerprint,
            "libraries": {name: libraries.get(name) for name in FINGERPRINT_LIBRARIES},
            "int8_dot": int8_dot,  # int8 schemes are chosen for the CPU
        }
    )


def trial_key(
    artifact: str, backend: str, point: OperatingPoint, threads: int, *, site: Site | None = None, **extra: Any
) -> str:
    """Return the key of a trial on a machine; ``extra`` holds further conditions of the measurement."""
    engine = {"backend": backend, "threads": threads}
    if point.shape:
        extra["shape"] = shape_words(point.shape)
    identity = {
        "artifact": artifact,
        "engine": engine,
        "batch_size": point.batch,
        "machine": site.fingerprint if site else fingerprint_id(),
    }
    return short_id({**identity, **extra})
