"""On-disk store of a study's artifacts, with the results of preparing them."""

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
        """Return the folder for the artifact of a trial's recipe."""
        return self._root / trial.artifact_key

    def artifact(self, trial: Trial) -> Path:
        """Return the artifact's folder; of a fixed batch, the one for this batch size."""
        folder = self.target(trial)
        own = folder.with_name(f"{folder.name}-b{trial.batch_size}")
        return own if own.is_dir() else folder

    def keep(self, trial: Trial, answer: dict[str, Any]) -> None:
        """Store the result of preparing a recipe: its artifact is complete."""
        write_json(self._note(trial), answer)

    def prepared(self, trial: Trial, batch_sizes: Collection[int]) -> dict[str, Any] | None:
        """Return the result of preparing for these batch sizes, None if it or its artifact is missing."""
        path = self._note(trial)
        if not path.exists() or not self.artifact(trial).is_dir():
            return None
        answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sizes = answer["fixed_sizes"]
        return answer if sizes is None or set(batch_sizes) <= set(sizes) else None

    def _note(self, trial: Trial) -> Path:
        return self._root / f"{trial.artifact_key}.json"
