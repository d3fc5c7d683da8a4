"""A small batch with torch's outputs, for the validation of runtimes. numpy only."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.errors import ArtifactError

MAX_SAMPLES = 8
MAX_BYTES = 4 * 2**20

Arrays = list["np.ndarray[Any, Any]"]


@dataclasses.dataclass(frozen=True)
class Reference:
    """Flat inputs and outputs in the order of the io description, each ``[n, ...]``."""

    inputs: Arrays
    outputs: Arrays

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return int(self.inputs[0].shape[0])

    def tiled_inputs(self, size: int) -> Arrays:
        """Return the first ``size`` samples, repeated from the start if there are fewer."""
        index = np.arange(size) % self.batch_size
        return [np.ascontiguousarray(array[index]) for array in self.inputs]

    def write(self, path: Path) -> None:
        """Write as .npz without pickle."""
        named = {f"input_{i}": array for i, array in enumerate(self.inputs)}
        named |= {f"output_{i}": array for i, array in enumerate(self.outputs)}
        with open(path, "wb") as stream:
            np.savez(stream, **named)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> Reference:
        """Read what :meth:`write` wrote; ArtifactError if the file is not valid."""
        try:
            with zipfile.ZipFile(path) as archive:
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise ValueError("it is compressed, and could expand to any size")
            with np.load(path, allow_pickle=False) as stored:
                inputs = [stored[f"input_{i}"] for i in range(sum(n.startswith("input_") for n in stored.files))]
                outputs = [stored[f"output_{i}"] for i in range(sum(n.startswith("output_") for n in stored.files))]
            if not inputs or not outputs:
                raise ValueError("arrays are missing")
        except (OSError, ValueError, KeyError, MemoryError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path} does not hold reference inputs and outputs: {error}.") from error
        return cls(inputs, outputs)


def sample_count(bytes_per_sample: int) -> int:
    """Return the number of samples of a reference: 8, fewer for large samples, at least 1."""
    return max(1, min(MAX_SAMPLES, MAX_BYTES // max(1, bytes_per_sample)))
