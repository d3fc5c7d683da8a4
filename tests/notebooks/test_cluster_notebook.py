"""The notebook about clusters, on two workers of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from outputs import SHORT, pictures, printed

from workbench.core.lazy import install_command

pytest.importorskip("distributed", reason=f"needs Dask: {install_command('cluster')}")


@pytest.mark.cluster
@pytest.mark.slow
def test_the_cluster_notebook_runs_and_names_its_workers(run_outputs: Any, here: Path) -> None:
    parameters = {
        "task": SHORT,
        "ratios": [0.5],
        "backends": ["onnxruntime"],
        "batch_sizes": [4],
        "interactive": False,
    }
    outputs = run_outputs("34_cluster.ipynb", parameters)
    text = printed(outputs)
    assert pictures(outputs) == 2
    assert "3 trials finished" in text and "2 workers on" in text and "Timed by worker" in text
    assert (here / "cluster.db").exists()
