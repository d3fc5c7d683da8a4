"""optuna-dashboard opens the database of a study as it is, beside the study's own tables."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

import workbench as wb

pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed: pip install optuna-dashboard")
SPACE = wb.Space(
    wb.maybe(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.9, step=0.2))), backends=("onnxruntime",), batch_sizes=(8,)
)


@pytest.fixture
def serve():
    """Return a function that starts the dashboard on a database and gives what asks its API."""
    made = []

    def start(url):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        code = "from optuna_dashboard._cli import main; main()"
        command = [sys.executable, "-c", code, url, "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        made.append(server)

        def get(path):
            end = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                        return json.load(answer)
                except urllib.error.HTTPError:
                    raise
                except OSError:  # it still starts
                    if server.poll() is not None or time.monotonic() > end:
                        pytest.fail(f"the dashboard does not answer: {server.poll()}")
                    time.sleep(0.2)

        return get

    yield start
    for server in made:
        server.terminate()
        server.communicate(timeout=30)


@pytest.mark.slow
def test_the_dashboard_lists_the_search_its_trials_and_its_best_value(search_run, serve):
    _, runner, tried, _ = search_run(SPACE, sampler="grid", trials=1000)
    assert len(tried) == SPACE.size > 3
    get = serve(search_run.url)
    (listed,) = get("/api/studies")["study_summaries"]
    assert listed["study_name"] == "a search"
    study = get(f"/api/studies/{listed['study_id']}")
    assert len(study["trials"]) == len(tried)
    values = sorted(trial["values"][0] for trial in study["trials"])
    assert values == pytest.approx(sorted(row["latency_ms_p50"] for row in runner.rows.values()))
    shown = {attribute["key"] for trial in study["trials"] for attribute in trial["user_attrs"]}
    assert {"row", "trial_key"} <= shown
    assert {tuple(sorted(p["name"] for p in trial["params"])) for trial in study["trials"]} != {()}
    best = study["best_trials"]
    assert best[0]["values"][0] == pytest.approx(values[0])  # the dashboard takes the least, whatever the goals say
