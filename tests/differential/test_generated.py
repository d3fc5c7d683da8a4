"""Every step on every engine at several sizes equals the step's own module, or is refused: models made by seed."""

from __future__ import annotations

import pytest
import torch
from cells import Cells, cells_of
from generated import LENGTH, Spec, task_of

SEEDS = 60
LEAST_RIGHT = 0.6
"""Share of a model's cells; else a test that refuses everything would pass."""


def longer(x: torch.Tensor) -> torch.Tensor:
    """Return sequences of another length than those that the model was exported with."""
    return torch.cat([x, x.flip(1)], 1)[:, : LENGTH + 4]


def tried(spec: Spec) -> Cells:
    """Return what becomes of a spec's model."""
    return cells_of(task_of(spec), others=(longer, lambda x: x[:, :2]) if spec.open_length else ())


def shrunk(spec: Spec) -> tuple[Spec, Cells]:
    """Return the smallest spec that still fails, with its cells."""
    for smaller in spec.smaller():
        if tried(smaller).wrong:
            return shrunk(smaller)
    return spec, tried(spec)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_generated_model_is_right_everywhere_or_refused(seed):
    spec = Spec.of(seed)
    cells = tried(spec)
    print(f"seed {seed}, {spec}: {cells}")  # noqa: T201 - shown when it fails
    if cells.wrong:
        smallest, cells = shrunk(spec)
        pytest.fail(f"seed {seed}, {spec}; shrunk to {smallest}: {cells}")
    assert cells.right >= LEAST_RIGHT * (cells.right + len(cells.refused))


@pytest.mark.cpu_limit(20)
@pytest.mark.parametrize("kind", ["vector", *(pytest.param(k, marks=pytest.mark.slow) for k in ("image", "sequence"))])
def test_a_smallest_model_of_each_kind(kind):
    pool = "none" if kind == "vector" else "mean"
    cells = tried(Spec(0, kind, (), pool, "tensor", False, False, kind == "sequence"))
    assert not cells.wrong
    assert all(line.startswith("dynamic on openvino:") for line in cells.refused), cells
