"""What a report leaves for other programs: Python code that repeats a row, and trials.jsonl."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, Prune, Quantize
from workbench.present.code import code_for, highlighted, step_code
from workbench.present.files import read_trials, write_trials

Rows = list[dict[str, Any]]
ASKED = [
    "task",
    "recipe",
    "recipe_id",
    "backend",
    "batch_size",
    "threads",
    "state",
    "quality",
    "quality_drop",
    "latency_ms_p50",
    "latency_ms_iqr",
    "throughput_per_s",
    "peak_rss_mib",
    "size_mib",
    "params",
    "macs",
    "speedup",
    "speedup_low",
    "speedup_high",
    "verdict",
    "recommended",
    "max_abs_diff",
    "load_ms",
    "compile_ms",
    "first_call_ms",
    "notes",
    "error",
    "fingerprint",
]


def test_the_code_makes_the_same_recipe(rows: Rows) -> None:
    import workbench as wb

    recipe = Recipe(Prune(ratio=0.3, exclude=("stem",)), Distill(epochs=2.5, max_seconds=9.0), Quantize(), seed=4)
    row = dict(rows[-1], recipe_json=recipe.to_json(), recipe="mine")
    code = code_for(row, reference="some/file.py:make")
    compile(code, "code", "exec")
    assert code.startswith("# mine on OpenVINO, batch size 32")
    assert "task = wb.load_task('some/file.py:make')" in code
    assert "backend='openvino', batch_size=32, threads=2" in " ".join(code.split())
    expression = code.split("recipe = ")[1].split("variant = ")[0]
    assert eval(expression, {"wb": wb}) == recipe


def test_the_code_opens_the_engine_with_the_options_of_the_row(rows: Rows) -> None:
    import ast

    options = {"precision": "bfloat16", "streams": 2}
    code = code_for(dict(rows[-1], engine_json=json.dumps(options)), reference=None)
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    (call,) = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "from_variant"]
    found = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert found == {"backend": "openvino", "batch_size": 32, "threads": 2, **options}


def test_default_options_are_left_out() -> None:
    assert step_code(Prune()) == "wb.Prune()"
    assert step_code(Quantize(qat_epochs=2.0)) == "wb.Quantize(qat_epochs=2.0)"


def test_built_in_and_unreachable_tasks(rows: Rows) -> None:
    assert "task = wb.tasks.digits_vit()" in code_for(rows[0], reference="digits_vit")
    assert "task = ..." in code_for(rows[0], reference=None)


def test_code_as_html_is_escaped() -> None:
    assert "&lt;b&gt;" in highlighted("x = '<b>'")


def test_a_line_per_trial_with_every_column(rows: Rows, tmp_path: Path) -> None:
    path = write_trials(rows, tmp_path / "trials.jsonl")
    lines = path.read_text().splitlines()
    assert len(lines) == 54
    for line, row in zip(lines, rows, strict=True):
        found = json.loads(line)
        assert set(ASKED) <= set(found)
        assert found["latency_ms_p50"] == row["latency_ms_p50"]
    assert read_trials(path)[3]["backend"] == rows[3]["backend"]
    assert path.stat().st_mode & stat.S_IRUSR


def test_numbers_that_are_not_finite_become_null_and_layers_are_left_out(rows: Rows, tmp_path: Path) -> None:
    rows[0].update(quality=math.nan, notes={"x": math.inf})
    found = read_trials(write_trials(rows, tmp_path / "t.jsonl"))
    assert found[0]["quality"] is None and found[0]["notes"] == {"x": None}
    assert all("layers" not in step for row in found for step in row["steps"])
    assert rows[9]["steps"][0]["layers"]
