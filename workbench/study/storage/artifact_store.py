"""Where a study keeps its artefacts, and what preparing each of them told."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from workbench.core.files import write_json
from workbench.study.plan.trials import Trial


class ArtifactStore:
    """The folder ``artifacts`` of a study's files."""

    def __init__(self, files: Path) -> None:
        self._root = files / "artifacts"

    def target(self, trial: Trial) -> Path:
        """Return the folder that the artefact of a trial's recipe is written to."""
        return self._root / trial.artifact_key

    def artifact(self, trial: Trial) -> Path:
        """Return the artefact's folder; where its batch is fixed, the one for this batch size."""
        folder = self.target(trial)
        own = folder.with_name(f"{folder.name}-b{trial.batch_size}")
        return own if own.is_dir() else folder

    def keep(self, trial: Trial, answer: dict[str, Any]) -> None:
        """Note what preparing told: the artefact is complete."""
        write_json(self._note(trial), answer)

    def prepared(self, trial: Trial, batch_sizes: Collection[int]) -> dict[str, Any] | None:
        """Return what preparing told, where it was done for these batch sizes and its artefact is still there."""
        path = self._note(trial)
        if not path.exists() or not self.artifact(trial).is_dir():
            return None
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sizes = known["fixed_sizes"]
        return known if sizes is None or set(batch_sizes) <= set(sizes) else None

    def _note(self, trial: Trial) -> Path:
        return self._root / f"{trial.artifact_key}.json"
