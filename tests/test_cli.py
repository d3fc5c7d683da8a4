"""The command: exit codes, one line for an error, JSON that programs can read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from workbench import __version__
from workbench.cli import main as cli
from workbench.core.errors import ConfigError, StudyError, TaskError
from workbench.report import doctor
from workbench.report.run import ReportResult


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: command"),
        (["dcotor"], "Did you mean 'doctor'?"),
        (["report", "--task", "digits"], "required: --output"),
        (["report", "--task", "digits", "--output", "x", "-p", "budget_s"], "expected 2 arguments"),
        (["study", "--task", "digits", "--storage", "s", "--batch-sizes", "0"], "whole numbers of at least 1"),
        (["study", "--task", "digits", "--storage", "s", "--budget-s", "long"], "--budget-s: must be a number"),
        (["study", "--task", "digits", "--storage", "s", "--stall-timeout-s", "0"], "must be above 0"),
        (["study", "--task", "digits", "--storage", "s", "--stall-timeout-s", "long"], "must be a number"),
        (["study", "--task", "digits", "--storage", "s", "--budget-s", "nan"], "must be finite and above 0"),
        (["study", "--task", "digits", "--storage", "s", "--quality-drop", "nan"], "must be finite and at least 0"),
        (["bench"], "required: ARTIFACT"),
        (["bench", "none"], "none is not an artifact: it does not exist"),
        (["bench", "none", "--output", "."], "--output . is a folder"),
        (["bench", "none", "--batch-sizes", "0"], "whole number of at least 1"),
        (["study", "--task", "digits", "--storage", "sqlite:///x.db", "--merge", "none.jsonl"], "Cannot read the rows"),
        (["export", "--study", "sqlite:///none.db", "--output", "w"], "none.db does not exist"),
        (["export", "--study", "none.db", "--output", "w"], "is not a database URL"),
        (["bench", "none", "--shape", "sequence"], "write a name and its sizes"),
        (["study", "--task", "digits", "--storage", "s", "--shape", "n=0x"], "write a name and its sizes"),
        (["export", "--output", "w"], "required: --study"),
        (["doctor", "--jsn"], "unrecognized arguments: --jsn. See: workbench doctor --help"),
        (["bench", "a", "--shape", "s=16", "batch=3"], "unrecognized arguments: batch=3. See: workbench bench --help"),
        (["bench", "a", "--shape", "s=-3"], "each size must be an integer of at least 1"),
        (["bench", "a", "--output", "no/such/rows.jsonl"], "must exist. Create it"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(arguments: list[str], words: str, capsys: Any) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == ""
    assert words in err and len(err.splitlines()) == 1 and err.startswith("workbench: ")


def test_help_and_version(capsys: Any) -> None:
    for arguments, words in (["--version"], __version__), (["--help"], "doctor"), (["study", "--help"], "--recipes"):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 0
        assert words in capsys.readouterr().out


def test_doctor_as_json_and_as_text(capsys: Any) -> None:
    code, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"machine", "int8_dot", "int8", "default_threads", "fingerprint", "libraries", "backends"} <= set(found)
    backends = {b["name"]: b for b in found["backends"]}
    assert list(backends)[:3] == ["torch-eager", "onnxruntime", "openvino"]
    assert {"torch-compile", "torchscript", "aot-inductor"} <= set(backends)
    assert all(b["available"] and b["version"] for b in found["backends"][:3])
    assert backends["openvino"]["capabilities"]["precisions"] == ["float32", "bfloat16", "float16", "int8"]
    providers = {p["name"]: p for p in found["onnxruntime_providers"]}
    assert providers["cpu"]["available"] and {"cuda", "tensorrt", "openvino", "directml", "coreml"} <= set(providers)
    assert all(p["available"] or p["how"] for p in providers.values())
    assert found["machine"]["cores_allowed"] >= found["default_threads"] >= 1
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    for words in ("cores", "allowed here", "int8", "GPU", "openvino", found["libraries"]["torch"]):
        assert words in out
    lines = [line for line in out.splitlines() if "  available  " in line and "threads" in line]
    assert len({line.index("threads per") for line in lines}) == 1  # they stand in columns
    assert max(map(len, lines)) <= 100


def test_doctor_says_how_to_get_what_is_missing() -> None:
    found = doctor.system_info()
    found["backends"][1] |= {"available": False, "reason": "not installed", "how": "pip install onnxruntime"}
    assert "onnxruntime    missing     not installed. Install: pip install" in doctor.system_info_text(found)


def test_doctor_says_what_the_instruction_sets_mean() -> None:
    machine = doctor.this_machine()
    assert "saturate" in doctor.int8_advice(type(machine)(**{**vars(machine), "isa": ("avx2",)}))
    assert "safe" in doctor.int8_advice(type(machine)(**{**vars(machine), "isa": ("avx2", "avx_vnni")}))


@pytest.mark.parametrize(
    ("raised", "code"), [(ConfigError("wrong\n  thing"), 2), (TaskError("bad"), 2), (StudyError("broke"), 1)]
)
def test_errors_are_one_line_and_debug_shows_the_trace(
    raised: Exception, code: int, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("workbench.report.run.run_report", fail)
    arguments = ["report", "--task", "digits", "--output", "x"]
    found, _, err = run(capsys, *arguments)
    assert found == code
    assert err == f"workbench: {' '.join(str(raised).split())}\n"
    found, _, err = run(capsys, *arguments, "--debug")
    assert found == code
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("ok", "stopped", "code", "words"),
    [
        (True, False, 0, ""),
        (False, False, 1, "incomplete. The cell"),
        (False, True, 130, "the same command resumes"),
    ],
)
def test_report_passes_parameters_on_and_says_how_it_ended(
    ok: bool, stopped: bool, code: int, words: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def fake(task: str, **options: Any) -> ReportResult:
        asked.update(options, task=task)
        paths = (Path("o/report.html"), Path("o/report.ipynb"), Path("o/trials.jsonl"))
        return ReportResult(*paths, ok=ok, reason="" if ok else "The cell 'x' stopped.", stopped=stopped)

    monkeypatch.setattr("workbench.report.run.run_report", fake)
    given = ["report", "--task", "digits", "--output", "o", "-p", "budget_s", "60", "-p", "batch_sizes", "1,8"]
    found, out, err = run(capsys, *given)
    assert found == code
    assert asked == {"task": "digits", "output": Path("o"), "parameters": {"budget_s": "60", "batch_sizes": "1,8"}}
    assert "o/report.html" in out
    assert words in err
    twice = run(capsys, *given, "-p", "budget_s", "70")[2]
    assert twice == "workbench: Each parameter may be given once, 'budget_s' is given twice.\n"


def test_a_report_fails_on_conditions_of_its_recommended_row(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.present.files import write_trials
    from workbench.study.results.schema import new_row

    row = new_row(recipe="r", backend="openvino", state="complete", recommended=True, speedup=2.5, notes={})
    trials = write_trials([new_row(recipe="float", backend="torch-eager"), row], tmp_path / "trials.jsonl")
    done = ReportResult(tmp_path / "report.html", tmp_path / "report.ipynb", trials, ok=True)
    monkeypatch.setattr("workbench.report.run.run_report", lambda *_, **__: done)
    given = ["report", "--task", "digits", "--output", str(tmp_path)]
    assert run(capsys, *given, "--fail-if", "speedup<2")[0] == 0
    code, out, err = run(capsys, *given, "--fail-if", "speedup<3", "--fail-if", "quality_drop>0.01")
    assert code == 1 and "report.html" in out
    assert "FAILED: r on openvino: speedup is 2.5, so speedup<3 holds." in err
    assert "quality_drop was not measured" in err
    code, _, err = run(capsys, *given, "--fail-if", "sped_up<3")
    assert code == 2 and "did you mean" in err.lower()


def test_stopping_before_any_work(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.report.run.run_report", stop)
    code, _, err = run(capsys, "report", "--task", "digits", "--output", "x")
    assert code == 130 and "before any work" in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "Cannot read the recipes"),
        ("{", "is not valid JSON"),
        ("{}", "must be a list"),
        ("[]", "must be a list"),
        ('[{"steps": [{"step": "Prun"}]}]', "Prune"),
        ('[{"steps": [{"step": "Prune", "ratio": 1.5}]}]', "below 1"),
    ],
)
def test_wrong_recipe_files_are_refused(text: str | None, words: str, capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipes.json"
    if text is not None:
        path.write_text(text)
    given = ["study", "--task", "digits", "--storage", "sqlite:///x.db", "--recipes", str(path)]
    code, _, err = run(capsys, *given)
    assert code == 2 and words in err and len(err.splitlines()) == 1


def test_a_storage_that_cannot_be_opened_is_bad_input(capsys: Any, tiny_spec: str, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'none' / 'x' / 's.db'}"
    (tmp_path / "none").write_text("in the way")
    code, _, err = run(capsys, "study", "--task", tiny_spec, "--storage", storage)
    assert code == 2 and len(err.splitlines()) == 1


@pytest.mark.cpu_limit(40)
def test_study_runs_resumes_and_prints_rows(capsys: Any, tiny_spec: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('[{"steps": [{"step": "Prune", "ratio": 0.5}], "name": "half"}]')
    given = ["study", "--task", tiny_spec, "--storage", f"sqlite:///{tmp_path / 's.db'}", "--batch-sizes", "4"]
    given += ["--recipes", str(tmp_path / "r.json"), "--backends", "onnxruntime", "--threads", "1"]
    code, out, err = run(capsys, *given, "--json")
    assert code == 0
    rows = json.loads(out)
    assert {(r["recipe"], r["backend"], r["state"]) for r in rows} == {
        ("float", "torch-eager", "complete"),
        ("float", "onnxruntime", "complete"),
        ("half", "onnxruntime", "complete"),
    }
    assert " s] " in err
    code, out, err = run(capsys, *given)
    assert code == 0 and "timing" not in err
    assert "half" in out and "quality" in out
    winner = str(tmp_path / "winner")
    code, out, err = run(capsys, "export", "--study", given[4], "--output", winner, "--quality-drop", "1.0")
    assert code == 0, err
    assert f"folder   {winner}" in out and (tmp_path / "winner" / "run.py").is_file()
    code, _, err = run(
        capsys, "export", "--study", given[4], "--output", winner, "--trial", "none", "--task", tiny_spec
    )
    assert code == 2 and "is not the key of a finished row" in err and len(err.splitlines()) == 1


@pytest.mark.slow
def test_bench_writes_rows_that_a_study_merges(
    capsys: Any, tiny_spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workbench as wb
    from workbench.study.execution.budget import TimeBudget

    monkeypatch.setattr(TimeBudget, "rounds", (6, 6))
    monkeypatch.setattr(TimeBudget, "block_s", 0.01)
    folder = str(wb.Recipe().apply(wb.load_task(tiny_spec)).save(tmp_path / "float").folder)
    output = tmp_path / "out" / "rows.jsonl"
    code, out, err = run(capsys, "bench", folder, "--batch-sizes", "4", "--threads", "1", "--output", str(output))
    assert code == 0 and "loading onnxruntime, openvino" in err
    assert out.startswith("float of task tiny on ") and "1 thread each" in out
    assert [json.loads(line)["backend"] for line in output.read_text().splitlines()] == ["onnxruntime", "openvino"]
    assert list(output.parent.iterdir()) == [output]
    assert f"workbench: 2 rows written to {output}." in err
    code, out, _ = run(capsys, "bench", folder, "--backends", "onnxruntime", "--batch-sizes", "4", "--json")
    assert code == 0 and json.loads(out)[0]["state"] == "complete"

    rows = [{**json.loads(line), "fingerprint": "f" * 12} for line in output.read_text().splitlines()]
    (tmp_path / "there.jsonl").write_text("".join(f"{json.dumps({**r, 'trial_key': r['backend']})}\n" for r in rows))
    given = ["study", "--task", tiny_spec, "--storage", f"sqlite:///{tmp_path / 's.db'}", "--merge", str(output)]
    code, out, err = run(capsys, *given, str(tmp_path / "there.jsonl"))
    assert code == 0 and err.count("2 rows added, 0 replaced") == 2
    assert out.count("ffffffffffff") == 2 and "machine" in out
    assert len(json.loads(run(capsys, *given, "--json")[1])) == 4


def test_what_was_timed_is_printed_where_it_cannot_be_written(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.core.errors import WorkbenchError
    from workbench.study.results.schema import new_row

    def full(*_: Any) -> None:
        raise WorkbenchError("Cannot write rows.jsonl: No space left on device. Nothing was changed.")

    row = new_row(state="complete", recipe="r", task="t", backend="openvino", batch_size=1, threads=1)
    monkeypatch.setattr("workbench.study.bundle.artifact_bench.bench_artifact", lambda *_, **__: [row])
    monkeypatch.setattr("workbench.present.files.write_trials", full)
    code, out, err = run(capsys, "bench", "folder", "--output", str(tmp_path / "rows.jsonl"))
    assert code == 2 and "OpenVINO" in out and "No space left" in err


def test_bench_fails_where_no_backend_runs_the_artifact(
    capsys: Any, tiny_spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.study.results.schema import new_row

    rows = [
        new_row(state="failed", error="It broke.", recipe="r", task="t", backend="openvino", batch_size=1, threads=1)
    ]
    monkeypatch.setattr("workbench.study.bundle.artifact_bench.bench_artifact", lambda *_, **__: rows)
    code, out, _ = run(capsys, "bench", "folder")
    assert code == 1 and "It broke." in out


@pytest.mark.slow
def test_the_command_stops_quietly_when_its_reader_has_gone() -> None:
    pipe = f"{sys.executable} -m workbench doctor --json | head -c 10"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_the_study_and_says_how_to_resume(tiny_spec: str, tmp_path: Path) -> None:
    import signal

    storage = f"sqlite:///{tmp_path / 's.db'}"
    given = [sys.executable, "-m", "workbench", "study", "--task", tiny_spec, "--storage", storage, "--json"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # an ignored one would be handed down
    child = subprocess.Popen(given, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    signal.signal(signal.SIGINT, before)
    assert child.stderr is not None
    for line in child.stderr:
        if "timing" in line or "1/" in line:
            break
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "the same command resumes" in err and "Traceback" not in err
    assert json.loads(out)
