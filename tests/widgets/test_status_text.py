"""What the panel says: times, states, the table and the recommended point."""

from __future__ import annotations

import pytest

from workbench.core.format.speedup import row_speedup
from workbench.study.results.schema import update_row
from workbench.widgets.status_text import (
    TimeEstimate,
    clock,
    point_facts,
    point_name,
    recommendation,
    table_html,
    trials_sentence,
)


@pytest.fixture
def rows(fakes):
    study = fakes.FakeStudy()
    study.start(fakes.RECIPES, backends=["torch-eager", "openvino"], batch_sizes=[1, 32], quality_drop=0.01).result()
    return study.rows()


def test_clock() -> None:
    assert [clock(s) for s in (0, 83.9, 3661)] == ["0:00", "1:23", "1:01:01"]


def test_the_recommended_point_is_told_with_gain_cost_and_certainty(fakes) -> None:
    study = fakes.FakeStudy()
    study.start(fakes.RECIPES, backends=["torch-eager", "openvino"], batch_sizes=[1, 32], quality_drop=0.01).result()
    headline, text = recommendation(study.best())
    assert headline == "Recommended: chain on OpenVINO, batch size 32."
    assert "ms/batch" in text
    assert "quality 0.9440" in text
    assert str(row_speedup(study.best().row)) in text


def test_nothing_met_the_goal_is_said_plainly(fakes) -> None:
    study = fakes.FakeStudy()
    study.start(fakes.RECIPES[1:], backends=["openvino"], batch_sizes=[8], quality_drop=0.001).result()
    headline, text = recommendation(study.best(0.001))
    assert headline == "No variant meets the goal."
    assert "Closest" in text
    assert "distill on OpenVINO, batch size 8" in text


def test_before_the_first_trial_there_is_no_recommendation(fakes) -> None:
    assert recommendation(fakes.FakeStudy().best())[0] == "No recommendation yet."


def test_trials_are_counted_by_state(rows) -> None:
    rows[0] = update_row(rows[0], state="failed")
    rows[1] = update_row(rows[1], state="waiting")
    assert trials_sentence(rows) == "10 of 12 trials finished, 1 failed"


def test_the_pace_counts_only_new_work_and_keeps_to_the_budget() -> None:
    pace = TimeEstimate(100.0, 200.0)
    assert pace.sentence(101.0, None) == "0:01 elapsed"
    assert pace.sentence(110.0, 0.5) == "0:10 elapsed, at most about 3:10 left"
    assert pace.sentence(120.0, 0.75) == "0:20 elapsed, about 0:20 left"
    assert TimeEstimate(0.0, 30.0).sentence(29.0, 0.1) == "0:29 elapsed, at most about 0:01 left"


def test_the_table_marks_the_recommended_row_first_and_says_states_in_words(rows) -> None:
    html = table_html(rows, batch_size=32).replace("\u00a0", " ")
    body = html.split("<tbody>")[1]
    first = body.split("</tr>")[0]
    assert "★ recommended" in first
    assert html.count("★ recommended") == 1
    assert "chain" in first and "OpenVINO" in first
    assert body.count("<tr") == 6
    assert "finished" in first
    assert "faster" in first


def test_the_table_escapes_what_others_wrote_and_shows_why_a_trial_failed(fakes) -> None:
    row = update_row(
        fakes.waiting(fakes.RECIPES[0], "openvino", 1),
        state="failed",
        error="no <b>such</b> op\nand more",
        recipe="<i>",
    )
    html = table_html([row])
    assert "no &lt;b&gt;such&lt;/b&gt; op" in html
    assert "&lt;i&gt;" in html
    assert "and more" not in html
    assert "failed" in html


def test_a_missing_figure_is_a_dash_with_its_reason(fakes) -> None:
    row = update_row(
        fakes.finished(fakes.waiting(fakes.RECIPES[0], "openvino", 1)),
        peak_rss_mib=None,
        notes={"peak_rss_mib": "not on this system"},
    )
    assert ' title="not on this system">–<' in table_html([row])


def test_a_trial_that_did_not_fit_says_so(fakes) -> None:
    row = fakes.waiting(fakes.RECIPES[0], "openvino", 1)
    html = table_html([update_row(row, notes={"state": "Not run: the time budget does not allow it."})])
    assert "waiting<small>Not run: the time budget does not allow it.</small>" in html


def test_no_rows_is_said() -> None:
    assert "No trials at batch size 4 yet" in table_html([], batch_size=4)


def test_a_point_is_named_with_what_tells_it_from_others(fakes) -> None:
    row = fakes.finished(fakes.waiting(fakes.RECIPES[0], "openvino", 1))
    plain = point_name(row)
    changes = [{"shape": "sequence=64"}, {"engine_json": '{"streams": 2}'}, {"batch_size": 8}, {"fidelity": "survey"}]
    names = {plain, *(point_name({**row, **change}) for change in changes)}
    assert len(names) == 5
    assert point_name(row, threads=True) == f"{plain}, 2 threads"


def test_the_facts_of_a_point_tell_how_it_was_measured(fakes) -> None:
    row = fakes.finished(fakes.waiting(fakes.RECIPES[0], "openvino", 1))
    more = {"estimator": "undisturbed blocks", "allocator": "steady", "page_faults_per_call": 3.0, "noise_floor": 0.021}
    facts = dict(point_facts({**row, **more}))
    assert facts["estimator"] == "undisturbed blocks" and facts["page faults"] == "3.00 per call"
    assert facts["A/A noise floor"] == "2.1 %" and "context switches" not in facts


def test_the_table_labels_references_and_surveys(rows) -> None:
    base = next(row for row in rows if row["baseline"] and row["batch_size"] == 32)
    reference = update_row(base, baseline=False, reference="as commonly started", estimator="median")
    survey = update_row(rows[-1], fidelity="survey", recommended=False)
    html = table_html([reference, *rows, survey], batch_size=survey["batch_size"])
    assert "reference, not ranked" in table_html([reference, *rows], batch_size=32) and "(survey)" in html
    assert ' title="estimator: median"' in table_html([reference])
