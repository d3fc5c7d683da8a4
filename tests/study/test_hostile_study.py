"""A database with hostile values: each is refused in one line or quoted; nothing runs, nothing outside is read."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3

import pytest
from hostile import shape_of, values

import workbench as wb
from workbench.core.errors import WorkbenchError
from workbench.present.code import code_for
from workbench.present.terminal import rows_text
from workbench.report.sections import coverage, notes
from workbench.study.offline import export_stored, stored_rows
from workbench.study.plan.recipes import row_recipe
from workbench.study.results.schema import COLUMNS, checked_row
from workbench.study.storage.last_run import STRATEGY
from workbench.study.strategy.decision_log import Decision, DecisionLog, last_decisions


@pytest.fixture
def copied(int8_study, tmp_path):
    shutil.copytree(int8_study, tmp_path / "copy")
    return tmp_path / "copy"


def edit(folder, change):
    """Give every row of the database to ``change`` and write what it returns."""
    with opened(folder) as raw:
        for key, text in raw.execute("SELECT id, row FROM workbench_trials").fetchall():
            raw.execute("UPDATE workbench_trials SET row = ? WHERE id = ?", (change(json.loads(text)), key))


@contextlib.contextmanager
def opened(folder):
    """Yield a connection whose changes are in the file itself, and nowhere else, when the block ends."""
    with contextlib.closing(sqlite3.connect(folder / "s.db")) as raw:
        yield raw
        raw.commit()
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def shown(folder, out):
    """Read a study, and write all that is written about it; return the programs."""
    url = f"sqlite:///{folder}/s.db"
    try:
        rows, best = stored_rows(url)
        codes = [code_for(row, reference="digits") for row in rows if row["state"] == "complete"]
        page = rows_text(rows, best) + coverage(rows) + notes(rows, [])
        shutil.rmtree(out, ignore_errors=True)
        export_stored(url, out)
    except WorkbenchError as error:
        assert len(str(error)) < 3000
        return None
    assert "<script>" not in page.replace("\n", " ") or "<script>" in rows_text(rows, best)
    return [*codes, (out / "run.py").read_text()]


@pytest.mark.slow
def test_every_column(copied, tmp_path):
    mark, out = tmp_path / "ran", tmp_path / "out"
    clean = [shape_of(code) for code in shown(copied, out)]
    before = (copied / "s.db").read_bytes()
    tried = refused = 0
    for column in COLUMNS:
        for value in values(mark)[
            :: 1 if column in ("recipe", "shape", "artifact_key", "backend", "engine_json") else 4
        ]:
            (copied / "s.db").write_bytes(before)
            edit(copied, lambda row: json.dumps({**row, column: value}))  # noqa: B023
            codes = shown(copied, out)
            tried, refused = tried + 1, refused + (codes is None)
            for code in codes or ():
                compile(code, "x", "exec")
            if codes is not None and column not in ("recipe_json", "engine_json"):
                assert [shape_of(code) for code in codes] == clean, (column, value)
    assert tried > 400 and 50 < refused < tried
    assert not mark.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "copy", "out"] or not (tmp_path / "x").exists()


@pytest.mark.parametrize("text", ["[1]", "null", "1", "{", '{"a": 1}', "x" * 10_000])
def test_a_row_that_is_none_is_refused_in_one_line(copied, tmp_path, text):
    edit(copied, lambda _: text)
    with pytest.raises(WorkbenchError, match="is not a row of a study"):
        export_stored(f"sqlite:///{copied}/s.db", tmp_path / "out")


def test_an_artifact_elsewhere_is_not_followed(copied, tmp_path):
    key = next((copied / "s_files" / "artifacts").glob("*.json")).stem
    shutil.copytree(copied / "s_files" / "artifacts" / key, tmp_path / "elsewhere")
    for name in ("../../../elsewhere", str(tmp_path / "elsewhere"), "link"):
        (copied / "s_files" / "artifacts" / "link").unlink(missing_ok=True)
        (copied / "s_files" / "artifacts" / "link").symlink_to(tmp_path / "elsewhere")
        edit(copied, lambda row: json.dumps({**row, "artifact_key": name}))  # noqa: B023
        with pytest.raises(WorkbenchError, match=r"artifact_key|leads out"):
            export_stored(f"sqlite:///{copied}/s.db", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_an_artifact_of_another_recipe_is_not_handed_over(copied, tmp_path):
    edit(copied, lambda row: json.dumps({**row, "recipe_id": "0" * 12}))
    with pytest.raises(WorkbenchError, match="Do not use these files"):
        export_stored(f"sqlite:///{copied}/s.db", tmp_path / "out")


@pytest.mark.parametrize(
    "step", [{"step": "Distill", "epochs": 1.0, "student": "{}"}, {"step": "Prune", "exclude": ["{}"]}]
)
def test_a_function_that_a_row_names_is_not_called(copied, tmp_path, shared_task, step):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(*_):\n    return True\n")
    step = json.loads(json.dumps(step).replace("{}", f"{tmp_path / 'evil.py'}:f"))
    recipe = json.dumps({"steps": [step], "seed": 0, "name": None})
    shutil.rmtree(copied / "s_files" / "artifacts")
    edit(copied, lambda row: json.dumps({**row, "recipe_json": recipe}))
    with pytest.raises(WorkbenchError, match="trust=True"):
        export_stored(f"sqlite:///{copied}/s.db", tmp_path / "out", task=shared_task)
    with pytest.raises(WorkbenchError, match="trust=True"):
        row_recipe({"recipe": "x", "recipe_json": recipe})
    assert row_recipe({"recipe": "x", "recipe_json": recipe}, trust=True).functions == (f"{tmp_path / 'evil.py'}:f",)
    assert not (tmp_path / "ran").exists()


class Kept(dict):
    """Settings as a store keeps them: through JSON."""

    def setting(self, study, name):
        return json.loads(self[name]) if name in self else None

    def set_setting(self, study, name, value):
        self[name] = json.dumps(value)


def test_a_plan_whose_record_was_changed_is_not_repeated(tmp_path):
    kept = Kept()
    record = DecisionLog(kept, "s", {"budget": 1})
    record.once("axes", lambda: ["width"])
    record.add(Decision("free", "x", "kept", "y", speedup=float("nan")))
    name = kept.setting("s", STRATEGY)
    assert DecisionLog(kept, "s", {"budget": 1}).facts == {"axes": ["width"]}
    assert last_decisions(kept, "s").decisions[0].subject == "x"
    whole = kept[name]
    for key in json.loads(whole):
        for value in values(tmp_path / "ran"):
            if value == json.loads(whole)[key]:
                continue
            kept[name] = json.dumps({**json.loads(whole), key: value})
            for read in (lambda: DecisionLog(kept, "s", {"budget": 1}), lambda: last_decisions(kept, "s")):
                with pytest.raises(WorkbenchError, match="what the workbench wrote"):
                    read()


@pytest.mark.cpu_limit(5)
def test_settings_of_another_form_are_refused(copied, tmp_path):
    for name in ("search", "strategy", "quality_drop", "asked"):
        for value in values(tmp_path / "ran"):
            with opened(copied) as raw:
                raw.execute("DELETE FROM workbench_settings WHERE name = ?", (name,))
                raw.execute(
                    "INSERT INTO workbench_settings (study, name, value) VALUES ('answers', ?, ?)",
                    (name, json.dumps(value)),
                )
            shown(copied, tmp_path / "out")
            with opened(copied) as raw:
                raw.execute("DELETE FROM workbench_settings WHERE name = ?", (name,))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a\nb", "", "x" * 201, "\0", 5])
def test_names_of_recipes_studies_and_tasks_are_one_line(name, shared_task, tmp_path):
    with pytest.raises(WorkbenchError, match="one line"):
        wb.Recipe(name=name)
    with pytest.raises(WorkbenchError, match="one line"):
        wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db", name=name)


def test_a_row_keeps_its_own_words(int8_study):
    with opened(int8_study) as raw:
        rows = [json.loads(text) for (text,) in raw.execute("SELECT row FROM workbench_trials")]
    assert rows and [checked_row(row, "x") for row in rows] == rows
