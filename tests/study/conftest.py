"""One small study that several tests look at, and a way to get at the processes of a run."""

from __future__ import annotations

import pytest
from paths import SUPPORT

ANSWERS = f"{SUPPORT / 'answers.py'}:answers"


@pytest.fixture(scope="session")
def shared_task():
    """Return a task that needs no training, checked once for all tests of this room."""
    from workbench.tasks.load import load_task

    return load_task(ANSWERS)


@pytest.fixture(scope="session")
def int8_study(tmp_path_factory, shared_task, _short_timing):
    """Return the folder of a closed study of an int8 model, in its database s.db."""
    import workbench as wb

    folder = tmp_path_factory.mktemp("study")
    with wb.Study(shared_task, storage=f"sqlite:///{folder}/s.db") as study:
        study.run(
            [wb.Recipe(wb.Quantize(), name="int8")],
            backends=["onnxruntime"],
            batch_sizes=(4,),
            threads=1,
            quality_drop=1.0,
        )
    return folder


@pytest.fixture(scope="session", autouse=True)
def _short_timing():
    """Time in few and short blocks: these tests are about what happens, not about narrow intervals."""
    from workbench.study.execution.budget import TimeBudget

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimeBudget, "rounds", (6, 6))
        patch.setattr(TimeBudget, "block_s", 0.01)
        yield


@pytest.fixture
def started(monkeypatch):
    """Return a list that fills with (trial, child) as timing processes are started."""
    from workbench.study.workers.timing_client import EngineProcess

    found = []
    start = EngineProcess.start.__func__

    def spy(cls, trial, setup, *, name=""):
        arm = start(cls, trial, setup, name=name)
        found.append((arm.name, trial, arm.worker))
        return arm

    monkeypatch.setattr(EngineProcess, "start", classmethod(spy))
    return found
