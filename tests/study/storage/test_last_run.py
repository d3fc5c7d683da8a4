"""Settings of the last run decide which row is recommended and exported."""

from __future__ import annotations

import pytest

from workbench.core.errors import StudyError
from workbench.study.config import RunConfig
from workbench.study.results.schema import new_row
from workbench.study.storage.last_run import ASKED, LastRun, last_run


class Kept(dict):
    def setting(self, study, name):
        return self.get(name)


def row(backend, batch, *, state="complete", baseline=False, reference=None):
    return new_row(
        recipe="r",
        recipe_id="1",
        backend=backend,
        batch_size=batch,
        state=state,
        baseline=baseline,
        reference=reference,
    )


def test_the_primary_batch_size_is_32_or_the_largest():
    assert LastRun.of(RunConfig(batch_sizes=(1, 8, 32, 64))) == LastRun((), 32)
    assert LastRun.of(RunConfig(backends=["openvino"], batch_sizes=[1, 8])) == LastRun(("openvino",), 8)
    assert LastRun.from_dict(LastRun.of(RunConfig(backends=["a"], batch_sizes=[4])).to_dict()) == LastRun(("a",), 4)


def test_rows_of_other_engines_and_sizes_do_not_answer():
    rows = [row("torch-eager", 32, baseline=True), row("openvino", 32), row("onnxruntime", 8), row("openvino", 8)]
    kept, size = LastRun(("onnxruntime",), 8).among(rows)
    assert [(r["backend"], r["batch_size"]) for r in kept] == [("torch-eager", 32), ("onnxruntime", 8)] and size == 8
    assert LastRun().among(rows) == (rows, None)


def test_a_size_that_was_not_finished_is_not_asked_for():
    rows = [row("openvino", 32), row("openvino", 8, state="waiting"), row("openvino", 4, reference="torch.compile")]
    assert LastRun((), 8).among(rows)[1] is None
    assert LastRun((), 4).among(rows)[1] is None


def test_a_study_without_a_run_and_a_setting_of_another_form():
    assert last_run(Kept(), "s") == LastRun()
    with pytest.raises(StudyError, match="what the workbench wrote"):
        last_run(Kept({ASKED: {"backends": 3}}), "s")
