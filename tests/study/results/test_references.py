"""Reference rows: torch as commonly started beside the baseline, shown and never ranked."""

from __future__ import annotations

import os

import pytest

import workbench as wb
from workbench.core.errors import ConfigError, StudyError
from workbench.study.config import REFERENCES, checked_references
from workbench.study.plan.trials import make_plan
from workbench.study.results.schema import is_ranked


def test_names_are_checked():
    assert [kind.words for kind in checked_references(["torch-default", "torch-default"])] == ["as commonly started"]
    with pytest.raises(StudyError, match="torch-default"):
        checked_references(["torch-defalt"])
    for wrong in ("torch-default", 3, None):
        with pytest.raises(ConfigError, match="references must be tuple"):
            wb.RunConfig(references=wrong)


def test_references_are_trials_of_the_float_model_at_the_primary_point_alone():
    kinds = tuple(REFERENCES.values())
    plan = make_plan("f" * 12, [], ["torch-eager", "torch-compile"], (32, 1), threads=2, references=kinds)
    assert [(trial.reference, trial.point) for trial in plan.references] == [
        (kind.words, plan.primary) for kind in kinds
    ]
    assert not any(trial.baseline for trial in plan.references)
    assert len({trial.key for trial in plan.trials}) == len(plan.trials)  # torch-compile is a row of its own too
    rows = plan.rows("t", "f" * 12)
    assert [row["reference"] for row in rows.values()].count(None) == len(rows) - len(kinds)


@pytest.mark.slow
def test_a_study_shows_torch_as_commonly_started_and_never_ranks_it(shared_task, tmp_path):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        study.run([], backends=["onnxruntime"], batch_sizes=(4,), threads=1, references=["torch-default"])
        rows = study.rows()
        (reference,) = [row for row in rows if row["reference"] is not None]
        (base,) = [row for row in rows if row["baseline"]]
        assert reference["reference"] == "as commonly started" and reference["state"] == "complete"
        assert not is_ranked(reference) and not reference["recommended"]
        assert reference["quality"] == base["quality"]
        assert reference["baseline_key"] == base["trial_key"]
        if base["allocator"] == "glibc, steady" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
            assert reference["allocator"] == "glibc"
        assert len(study.pareto()) < len(rows)


def test_a_cluster_has_baselines_of_its_own(shared_task, tmp_path):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        for options in ({"references": ["torch-default"]}, {"baseline": "openvino"}):
            with pytest.raises(StudyError, match="left out with cluster"):
                study.run([], cluster="tcp://127.0.0.1:1", **options)
