"""Rows as files, read back by the tools that they are for."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from workbench.cli.main import main
from workbench.core.errors import ConfigError
from workbench.present.files import read_trials, write_rows
from workbench.report.notebook import fetches
from workbench.study.results.schema import COLUMNS, new_row
from workbench.study.storage.database import Store

KNOWN = {
    "task": "digits",
    "recipe": "a <b>",
    "recipe_id": "1",
    "technique": "prune",
    "backend": "openvino",
    "threads": 2,
    "trial_key": "k1",
    "task_fingerprint": "t",
    "fingerprint": "f",
    "machine": "m",
    "recipe_json": "{}",
    "artifact_key": "a",
}


def rows():
    done = new_row(**KNOWN, batch_size=1, latency_ms_p50=1.5, params=10, steps=[{"step": "Prune", "layers": [1]}])
    done.update(state="complete", notes={"quality": "why"})
    return [done, new_row(**{**KNOWN, "trial_key": "k2"}, batch_size=32)]


def test_csv_and_parquet_hold_every_column(tmp_path):
    pytest.importorskip("pyarrow", reason='pyarrow is not installed: pip install "inference-workbench[parquet]"')
    for read, name in ((pd.read_csv, "rows.csv"), (pd.read_parquet, "rows.parquet")):
        frame = read(write_rows(rows(), tmp_path / name))
        assert list(frame.columns) == list(COLUMNS)
        assert frame["latency_ms_p50"].tolist()[0] == 1.5 and pd.isna(frame["latency_ms_p50"][1])
        assert frame["batch_size"].tolist() == [1, 32]
        assert json.loads(frame["notes"][0]) == {"quality": "why"}
        assert json.loads(frame["steps"][0]) == [{"step": "Prune"}]


def test_lines_of_json_are_those_of_a_report(tmp_path):
    assert read_trials(write_rows(rows(), tmp_path / "rows.jsonl"))[0]["notes"] == {"quality": "why"}


def test_the_page_needs_nothing_else_and_escapes_names(tmp_path):
    source = write_rows(rows(), tmp_path / "rows.html").read_text()
    assert fetches(source) == []
    assert "a &lt;b&gt;" in source and "a <b>" not in source
    assert "digits: 2 trials" in source and "m (f)" in source and "<script>" in source


@pytest.mark.parametrize(("name", "words"), [("rows.xlsx", r"one of \.parquet"), ("rows", "got 'none'")])
def test_another_ending_is_refused(tmp_path, name, words):
    with pytest.raises(ConfigError, match=words):
        write_rows(rows(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_its_library_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install \"inference-workbench\[parquet\]"):
        write_rows(rows(), tmp_path / "rows.parquet")


def test_no_rows_are_no_file(tmp_path):
    with pytest.raises(ConfigError, match="No rows"):
        write_rows([], tmp_path / "rows.csv")


@pytest.fixture
def storage(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    store = Store(url)
    store.add("digits", {row["trial_key"]: row for row in rows()})
    store.close()
    return url


def test_the_command_writes_the_rows_of_a_database(storage, tmp_path, capsys):
    target = tmp_path / "rows.csv"
    assert main(["rows", "--storage", storage, "--output", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: 2 rows\n"
    assert len(pd.read_csv(target)) == 2
    assert main(["rows", "--storage", storage, "--name", "other", "--output", str(target)]) == 2
    assert "holds no study 'other'. It holds: 'digits'" in capsys.readouterr().err
    assert main(["rows", "--storage", "sqlite:///none.db", "--output", str(target)]) == 2


def test_the_command_compares_two_states(storage, tmp_path, capsys):
    row = {**rows()[0], "speedup": 4.0, "speedup_low": 3.9, "speedup_high": 4.1}
    before = write_rows([row], tmp_path / "before.jsonl")
    slow = {**row, "speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}
    after = write_rows([slow], tmp_path / "after.jsonl")
    assert main(["regression", str(before), str(after)]) == 1
    assert "worse: a <b> on openvino, batch 1: speedup 4.00x" in capsys.readouterr().out
    assert main(["regression", str(after), str(before), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compared"] == 1
    assert main(["regression", storage, str(before)]) == 0
    both = write_rows([row, {**row, "recipe": "other", "recipe_id": "o"}], tmp_path / "both.jsonl")
    assert main(["regression", str(both), str(before)]) == 1
    assert main(["regression", str(both), str(before), "--allow-missing"]) == 0
    assert main(["regression", str(tmp_path / "none.jsonl"), str(after)]) == 2
    assert "Cannot read" in capsys.readouterr().err
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    assert main(["regression", str(tmp_path / "other.jsonl"), str(after)]) == 2
    assert "{'a': 1} (dict)" in capsys.readouterr().err
