"""The coverage matrix keeps its promises, its page says what the figures say, a broken cell costs itself only."""

from __future__ import annotations

import json
from typing import Any

import pytest
from packages import require_package

from benchmarks.coverage import JSON, PAGE, run_row, usable, versions
from benchmarks.coverage_cells import A_LAYER, ENGINES, TECHNIQUES, Technique, middle_layer, run_cell
from benchmarks.coverage_page import recipe_text, render
from benchmarks.zoo import ARCHITECTURES
from benchmarks.zoo.task import Architecture, images, task_of

FIGURES: dict[str, Any] = json.loads(JSON.read_text(encoding="utf-8"))
CELLS = [(row, name, cell) for row in FIGURES["architectures"] for name, cell in row["cells"].items()]
LONGEST_REASON = 600


def works(cell: dict[str, Any]) -> bool:
    """Return whether a cell says that it works, with the proof: every step touched layers, every engine answered.

    An engine that takes no such recipe, whatever the model, may say so in place of an answer.
    """
    return (
        cell["status"] == "works"
        and bool(cell["steps"])
        and all(step["touched"] > 0 for step in cell["steps"])
        and sorted([*cell["engines"], *cell.get("without", ())]) == sorted(ENGINES)
        and len(cell["engines"]) >= 2
    )


def test_the_matrix_holds_every_architecture_and_technique() -> None:
    assert [row["name"] for row in FIGURES["architectures"]] == [a.name for a in ARCHITECTURES]
    assert len(ARCHITECTURES) >= 12
    columns = [technique.name for technique in TECHNIQUES]
    assert [technique["name"] for technique in FIGURES["techniques"]] == columns
    assert [technique["recipe"] for technique in FIGURES["techniques"]] == [recipe_text(t.recipe()) for t in TECHNIQUES]
    for row in FIGURES["architectures"]:
        assert list(row["cells"]) == columns, row["name"]


def test_four_cells_of_five_work_and_the_others_say_why_in_one_line() -> None:
    good = [cell for _, _, cell in CELLS if works(cell)]
    assert len(good) >= 0.8 * len(CELLS)
    assert sum("without" not in cell for cell in good) >= 0.8 * len(CELLS), "on all three engines"
    for row, name, cell in CELLS:
        if works(cell):
            assert cell["reason"] is None
            continue
        assert cell["status"] == "refused", (row["name"], name, cell["reason"])
        assert "\n" not in cell["reason"]
        assert 20 < len(cell["reason"]) <= LONGEST_REASON, (row["name"], name, cell["reason"])


def test_prune_factorize_and_static_int8_work_on_every_cnn() -> None:
    promised = [technique["name"] for technique in FIGURES["techniques"] if technique["promised"]]
    assert promised == ["Prune 0.3", "Factorize", "Factorize spatial", "Factorize tucker2", "Quantize static"]
    cnns = [row for row in FIGURES["architectures"] if row["kind"] == "CNN"]
    assert len(cnns) >= 8
    for row in cnns:
        for name in promised:
            assert works(row["cells"][name]), (row["name"], name, row["cells"][name]["reason"])


def test_only_the_engine_that_takes_no_dynamic_int8_is_left_out() -> None:
    left_out = {(name, engine) for _, name, cell in CELLS for engine in cell.get("without", ())}
    assert left_out == {("Quantize dynamic", "openvino")}
    for row in FIGURES["architectures"]:
        cell = row["cells"]["Quantize dynamic"]
        if works(cell):
            assert "kernels" in cell["without"]["openvino"], row["name"]


def test_the_page_is_what_the_figures_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(FIGURES)


def test_the_page_links_every_refusal_to_its_reason() -> None:
    figures = {
        "date": "2026-01-02",
        "versions": {"torch": "2.13.0", "pytorchcv": None},
        "cpu": "a CPU",
        "int8_dot": False,
        "techniques": [{"name": "Prune 0.3", "recipe": "Prune(ratio=0.3)", "promised": True}],
        "architectures": [
            {
                "name": "Good",
                "kind": "CNN",
                "source": "somewhere",
                "what": "nothing",
                "cells": {
                    "Prune 0.3": {
                        "status": "works",
                        "reason": None,
                        "steps": [{"label": "prune 0.3", "touched": 3, "candidates": 4}],
                        "params": [200, 100],
                        "macs": [1000, 250],
                        "engines": {name: {"share": 0.002, "fixed_batch": None} for name in ENGINES},
                    }
                },
            },
            {
                "name": "Half",
                "kind": "CNN",
                "source": "somewhere",
                "what": "little",
                "cells": {
                    "Prune 0.3": {
                        "status": "works",
                        "reason": None,
                        "steps": [{"label": "prune 0.3", "touched": 1, "candidates": 2}],
                        "params": [10, 10],
                        "macs": [10, 10],
                        "engines": {"onnxruntime": {"share": 0.001, "fixed_batch": 4}},
                        "without": {"openvino": "variant 'x' is not for it."},
                    }
                },
            },
            {
                "name": "Bad",
                "kind": "MLP",
                "source": "elsewhere",
                "what": "everything",
                "cells": {
                    "Prune 0.3": {
                        "status": "refused",
                        "reason": "variant 'a + b' is too | odd",
                        "steps": [],
                        "engines": {},
                    }
                },
            },
        ],
    }
    page = render(figures)
    assert "**2 of 3 cells work (67%)" in page
    assert "In 1 of those that work, one engine takes no such recipe" in page
    assert "*Prune 0.3* is not for openvino: this variant is not for it." in page
    assert "| Half (CNN) | 1 of 2 (fixed batch, not on openvino) |" in page
    assert "| Good (CNN) | 3 of 4 |" in page
    assert "| Bad (MLP) | [*no: 1*](#why-1) |" in page
    assert '<a id="why-1"></a>1. *Bad × Prune 0.3*: this variant is too | odd' in page
    assert "| Good | 50% params, 25% MACs |" in page
    assert "| Prune 0.3 | 0.002 (Good) | 0.002 (Good) |" in page
    assert "| pytorchcv | not installed |" in page


def test_a_cell_that_takes_too_long_is_reported_and_the_row_ends() -> None:
    seen: list[str] = []
    cells = run_row(
        ARCHITECTURES[0], ["Prune 0.3", "Factorize"], timeout_s=0.01, on_cell=lambda name, _: seen.append(name)
    )
    assert {name: cell["status"] for name, cell in cells.items()} == {"Prune 0.3": "failed", "Factorize": "failed"}
    assert cells["Prune 0.3"]["reason"] == "no answer within 0.01 s"
    assert seen == ["Prune 0.3", "Factorize"]


def test_a_child_that_dies_is_reported_with_its_last_words() -> None:
    nobody = Architecture("Nobody", "CNN", "nowhere", "", lambda: pytest.fail("never built here"), images(8))
    cells = run_row(nobody, ["Prune 0.3"], timeout_s=60.0, on_cell=lambda *_: None)
    assert cells["Prune 0.3"]["status"] == "failed"
    assert "the process ended with code 1: StopIteration" in cells["Prune 0.3"]["reason"]


def test_a_run_that_goes_on_keeps_what_works_and_was_made_the_same_way() -> None:
    recipe = recipe_text(TECHNIQUES[0].recipe())
    cells = {TECHNIQUES[0].name: {"status": "works"}, TECHNIQUES[1].name: {"status": "works"}}
    bad = {TECHNIQUES[0].name: {"status": "refused"}}
    found = {
        "versions": versions(),
        "techniques": [
            {"name": TECHNIQUES[0].name, "recipe": recipe},
            {"name": TECHNIQUES[1].name, "recipe": "Prune(ratio=0.9)"},
        ],
        "architectures": [{"name": "ResNet", "cells": cells}, {"name": "BERT", "cells": bad}],
    }

    def kept(wanted: list[str], *, resume: bool, **changes: Any) -> dict[str, list[str]]:
        rows = usable(found | changes, wanted, resume=resume)["architectures"]
        return {row["name"]: list(row["cells"]) for row in rows}

    first = TECHNIQUES[0].name
    assert kept(["ResNet", "BERT"], resume=True) == {"ResNet": [first], "BERT": []}
    assert kept(["ResNet", "BERT"], resume=False) == {"ResNet": [], "BERT": []}
    assert kept(["ResNet"], resume=False) == {"ResNet": [], "BERT": [first]}
    assert kept(["BERT"], resume=True, versions={"torch": "1.0"}) == {"ResNet": [], "BERT": []}


class TestOneCell:
    def test_refusals_and_defects_are_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import workbench as wb
        from workbench.core.errors import ConfigError

        def refuse() -> wb.Recipe:
            raise ConfigError("not like this")

        def break_down() -> wb.Recipe:
            raise KeyError("oops")

        refused = run_cell(Technique("a", refuse), None, {})  # type: ignore[arg-type]
        broken = run_cell(Technique("b", break_down), None, {})  # type: ignore[arg-type]
        assert (refused["status"], refused["reason"]) == ("refused", "not like this")
        assert (broken["status"], broken["reason"]) == ("failed", "KeyError: 'oops'")

    @pytest.mark.slow
    def test_an_engine_without_dynamic_int8_says_so_and_the_others_answer(self, tiny_task: Any) -> None:
        technique = next(t for t in TECHNIQUES if t.name == "Quantize dynamic")
        cell = run_cell(technique, tiny_task, {})
        assert works(cell), cell["reason"]
        assert list(cell["engines"]) == ["torch-eager", "onnxruntime"]
        assert "Use the backend onnxruntime" in cell["without"]["openvino"]

    def test_a_recipe_that_names_a_layer_names_one_that_the_model_calls(self, tiny_task: Any) -> None:
        technique = next(t for t in TECHNIQUES if t.name == "Distill features")
        name = middle_layer(tiny_task)
        assert technique.recipe_for(tiny_task).steps[0].features == (name,)
        assert technique.recipe().steps[0].features == (A_LAYER,)
        assert dict(tiny_task.model().named_modules())[name].weight.ndim >= 2

    @pytest.mark.slow
    def test_a_real_one_counts_what_was_touched_on_every_engine(self, tiny_task: Any) -> None:
        cell = run_cell(TECHNIQUES[0], tiny_task, {})
        assert works(cell), cell["reason"]
        assert cell["params"][1] < cell["params"][0]
        assert cell["engines"]["torch-eager"]["max_abs_diff"] == 0.0
        assert cell["engines"]["onnxruntime"]["share"] < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["ResNet", "BERT", "GPT-2"])
def test_the_promises_hold_when_the_matrix_is_run_again(name: str) -> None:
    require_package("pytorchcv", "transformers")
    architecture = next(a for a in ARCHITECTURES if a.name == name)
    cells = run_row(architecture, [t.name for t in TECHNIQUES], timeout_s=250.0, on_cell=lambda *_: None)
    assert sum(map(works, cells.values())) >= 0.8 * len(cells), {k: c["reason"] for k, c in cells.items()}
    assert all(cell["status"] != "failed" for cell in cells.values())
    if architecture.kind == "CNN":
        assert all(works(cells[t.name]) for t in TECHNIQUES if t.promised)


def test_tasks_of_the_zoo_can_be_used_as_they_are() -> None:
    require_package("transformers")
    task = task_of(next(a for a in ARCHITECTURES if a.name == "BERT"))
    task.check()
    assert task.parameter_names == ("input_ids", "attention_mask")
    assert task.evaluate(task.model()) > 0.99
