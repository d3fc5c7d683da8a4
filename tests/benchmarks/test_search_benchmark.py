"""The search benchmark's judgement, page and choices, on points of known speed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search import TOOLS, kept, searched, verdicts
from benchmarks.search_common import Candidate, Setting
from benchmarks.search_judge import Judged, duel, median_of, table
from benchmarks.search_olive import olive_choice
from benchmarks.search_olive_flows import config, flows
from benchmarks.search_ours import best_seen
from benchmarks.search_page import chart, page
from workbench.study.search.goals import Goals, Objective
from workbench.study.search.history import History, TrialRecord


def candidate(tool, seed, **more):
    options = {"backend": "openvino", "precision": "auto"}
    return Candidate(tool, seed, "int8", options, "model.xml", 61.0, 60.0, 7, False, **more)


def judged(tool, ms, drop=0.002, seed=0, **more):
    """Return a point whose blocks lie within a thousandth of ``ms``."""
    blocks = [np.full(5, ms) * (1 + i / 10_000) for i in range(8)]
    return Judged(
        candidate(tool, seed, **more), 0.88 - drop, drop, drop - 0.01, drop + 0.01, {32: ms, 1: ms / 20},
        (18 / ms, 17.9 / ms, 18.1 / ms), blocks,
    )  # fmt: skip


def nothing(tool, seed=0):
    return Judged(
        Candidate.nothing(tool, seed, 60.0, 60.0, tried=2, by_itself=True), problem="nothing within the limit"
    )


@pytest.mark.parametrize(
    ("mine", "peer", "good"),
    [
        (judged("workbench", 3.0), judged("nncf", 4.0), True),
        (judged("workbench", 4.05), judged("nncf", 4.0), True),  # within the noise
        (judged("workbench", 4.2), judged("nncf", 4.0), False),
        (judged("workbench", 3.0, drop=0.0101), judged("nncf", 4.0), False),
        (judged("workbench", 3.0, drop=0.01), judged("nncf", 4.0), True),
        (judged("workbench", 5.0), judged("nncf", 4.0, drop=0.02), True),  # the peer does not hold the limit
        (judged("workbench", 5.0), nothing("nncf"), True),
        (nothing("workbench"), nothing("nncf"), False),
    ],
)
def test_as_good_is_within_the_limit_and_no_slower_than_noise(mine, peer, good):
    found = duel(mine, peer, 0.02)
    assert found.as_good is good
    assert ("NOT as good" in found.words) is not good


def test_the_words_name_the_ratio_or_why_there_is_none():
    words = duel(judged("workbench", 3.0), judged("nncf", 4.0), 0.02).words
    assert words.startswith(
        "workbench, seed 0 against nncf, seed 0: at least as good: 0.750 of its time (0.750 to 0.750"
    )
    assert "loses 2.00 points, more than 1" in duel(judged("workbench", 3.0), judged("nncf", 4.0, 0.02), 0.02).words
    assert "nothing within the limit" in duel(nothing("workbench"), judged("nncf", 4.0), 0.02).words


def test_the_median_seed_counts_what_is_beyond_the_limit_as_worst():
    rows = [judged("olive", 2.0, drop=0.03, seed=0), judged("olive", 5.0, seed=1), judged("olive", 4.0, seed=2)]
    assert median_of(rows, "olive").candidate.seed == 1
    assert median_of(rows[:2], "olive").candidate.seed == 0  # of two the worse
    assert median_of(rows, "nncf") is None


def test_all_peers_count_and_every_seed_is_told():
    rows = [judged("workbench", ms, seed=seed) for seed, ms in enumerate((3.0, 3.5, 9.0))]
    rows += [judged("olive", 4.0, seed=seed) for seed in range(3)]
    words, pairs, holds = verdicts(rows, 0.02)
    assert holds and len(words) == 1 and len(pairs) == 3
    assert [("NOT" in pair) for pair in pairs] == [False, False, True]
    words, _, holds = verdicts([*rows, *(judged("nncf", 3.0, seed=seed) for seed in range(3))], 0.02)
    assert not holds and len(words) == 2
    assert verdicts(rows[3:], 0.02) == (["The workbench was not searched with."], [], False)
    assert not verdicts(rows[:3], 0.02)[2]  # alone it has shown nothing


BASE = Judged(
    Candidate("float", 0, "float model", {"backend": "torch-eager"}, None, 0.0, 0.0, 0, True),
    0.88, 0.0, 0.0, 0.0, {32: 18.0, 1: 2.4}, (1.0, 1.0, 1.0), [np.ones(2)] * 2,
)  # fmt: skip


def test_the_table_shows_every_tool_with_its_time_and_what_found_nothing():
    lines = table([judged("workbench", 3.0), nothing("olive")], BASE).splitlines()
    assert len(lines) == 5 and all(line.count("|") == 12 for line in lines)
    assert lines[2].startswith("| float |  | float model | torch-eager | 0.00 (0.00 to 0.00) | 18.000 |")
    assert lines[3].startswith("| olive | 0 | nothing within the limit |") and "by itself" in lines[3]
    assert "| openvino auto | 0.20 (-0.80 to 1.20) | 3.000 | 6.00 (5.97 to 6.03) | 0.150 | 61 | 7 " in lines[4]
    assert "by the limit of 60 s" in lines[4]


def test_the_page_tells_what_failed_and_the_chart_has_a_marker_for_each_tool():
    rows = [judged("workbench", 3.0), judged("olive", 4.0, notes=("a pass: 3 x ValueError: no",)), nothing("nncf")]
    text = page(table(rows, BASE), ["first"], ["second"], rows, threads=2, picture="search.png")
    assert "- olive, seed 0: a pass: 3 x ValueError: no" in text and "- first" in text and "- second" in text
    (ax,) = chart(rows, BASE).axes
    assert {word.get_text() for word in ax.get_legend().get_texts()} == {"workbench", "olive", "limit: 1 point"}


def tried(number, ms, holds=True, state="complete"):
    excess = {"max_quality_drop": -0.5 if holds else 0.5}
    values = (ms,) if state == "complete" else None
    return TrialRecord(number, state, f"k{number}", "r", "openvino", 32, {}, values, 0.001, excess)


def test_ours_is_the_fastest_that_held_the_goal_on_what_the_search_saw():
    question = Objective(Goals(), ("latency_ms_p50",), (32,))
    points = (tried(0, 4.0), tried(1, 2.0, holds=False), tried(2, 3.0), tried(3, 1.0, state="pruned"))
    assert best_seen(History("h", question, points)).number == 2
    assert best_seen(History("h", question, points[1:2])) is None


SETTING = Setting(None, Path("f.onnx"), Path("a.npz"), 2, 60.0)


def flow(name, ms, path="x/model.xml", **more):
    best = None if ms is None else {"latency_ms": ms, "accuracy": 0.86, "path": path, "words": f"pass {name}"}
    return {"flow": name, "best": best, "tried": 3, "by_itself": True, "failures": {}, "base": 0.87} | more


def test_olives_point_is_the_fastest_of_its_workflows_with_the_runtime_it_is_for():
    flows = [flow("a", 4.0), flow("b", 3.0, "x/model.onnx"), flow("c", None, failures={"Pass run failed. X: no": 2})]
    found = olive_choice(flows, 1, 70.0, SETTING)
    assert (found.words, found.model, found.options) == ("pass b", "x/model.onnx", {"backend": "onnxruntime"})
    assert (found.tried, found.by_itself, found.seed) == (9, True, 1)
    assert found.validation_drop == pytest.approx(0.01) and found.notes == ("c: 2 x Pass run failed. X: no",)
    assert olive_choice(flows[:1], 1, 70.0, SETTING).options == {"backend": "openvino", "precision": "auto"}


def test_an_olive_that_found_nothing_or_never_answered_is_said():
    found = olive_choice([flow("a", None, error="E: broken", by_itself=False)], 0, 70.0, SETTING, ("late",))
    assert found.model is None and not found.by_itself and found.notes == ("late", "a: E: broken")
    assert olive_choice([], 0, 180.0, SETTING).tried == 0


def test_a_search_is_kept_and_not_done_again(tmp_path, monkeypatch):
    done = []

    def run(setting, seed, folder, notify):
        done.append(seed)
        (folder / "model.xml").write_text("x")
        return candidate("nncf", seed, notes=("n",), versions={"nncf": "3"})

    monkeypatch.setitem(TOOLS, "nncf", run)
    for seed in (1, 0, 1):
        searched("nncf", seed, SETTING, tmp_path)
    assert done == [1, 0]
    (first, folder), (second, _) = kept(tmp_path)
    assert (first, second.seed) == (candidate("nncf", 0, notes=("n",), versions={"nncf": "3"}), 1)
    assert (folder / "model.xml").exists() and json.loads((folder / "candidate.json").read_text())["tool"] == "nncf"


def test_a_search_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def run(setting, seed, folder, notify):
        raise RuntimeError("no")

    monkeypatch.setitem(TOOLS, "nncf", run)
    with pytest.raises(RuntimeError):
        searched("nncf", 0, SETTING, tmp_path)
    assert kept(tmp_path) == []


def test_a_candidate_comes_back_from_json_as_it_was():
    one = candidate("olive", 2, notes=("a", "b"), validation_drop=0.001)
    values = json.loads(json.dumps(dataclasses.asdict(one)))
    assert Candidate(**{**values, "notes": tuple(values["notes"])}) == one


def test_olives_workflows_hold_the_goal_put_latency_first_and_share_no_folder():
    job = {"limit": 0.01, "classes": 10, "float": "f.onnx", "seed": 3}
    found = flows(job, "script.py")
    assert {sampler for sampler, _ in found.values()} == {"sequential", "tpe"}
    for sampler, passes in found.values():
        made = config(job, "script.py", sampler, passes, Path("flow"), 12.7)
        accuracy, latency = (metric["sub_types"][0] for metric in made["evaluators"]["judge"]["metrics"])
        assert (latency["priority"], accuracy["priority"]) == (1, 2)
        assert accuracy["goal"] == {"type": "max-degradation", "value": 0.01}
        strategy = made["search_strategy"]
        assert strategy["max_time"] == 12 and strategy["sampler"] == sampler
        assert strategy["sampler_config"].get("seed") == (3 if sampler == "tpe" else None)
        json.dumps(made)
