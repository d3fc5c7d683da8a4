"""A model that crashes OpenVINO's compiler ends a process of its own, never the one in which a person works."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workbench.core.errors import EngineError
from workbench.engine.backends.openvino import compiler_guard
from workbench.engine.backends.openvino.compiler_guard import crash_free_settings

SETTINGS = {"INFERENCE_NUM_THREADS": 1}
DIES_OF_SNIPPETS = (
    "import os, sys\nfor x in sys.stdin: 'DISABLE' in x or os.kill(os.getpid(), 11); print('tried', flush=True)"
)
DIES = "import os, sys\nfor x in sys.stdin: os.kill(os.getpid(), 11)"
CANNOT_START = "raise SystemExit(1)"
DIES_WHILE_IDLE = "import os, sys, time\nfor x in sys.stdin: print('tried', flush=True); os._exit(0)"
LIVES = "import sys\nfor x in sys.stdin: print('tried', flush=True)"

TOWERS = """
import sys
import torch
from torch import nn
import workbench as wb

class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32))
        self.head = nn.Linear(64, 3)

    def forward(self, first, second):
        a, b = self.tower(first), self.tower(second)
        return self.head(torch.cat([(a - b).abs(), a * b], 1))

def build():
    torch.manual_seed(0)
    return Towers().eval()

torch.manual_seed(1)
inputs, labels = tuple(torch.randn(300, 64) for _ in range(2)), torch.arange(300) % 3
held = tuple(x[:40] + 0.1 for x in inputs)
task = wb.Task(
    name="towers", build=build, train=(inputs, labels), evaluation=(held, labels[:40]),
    metric=lambda out, y: float((out.argmax(1) == y).float().mean()), loss=nn.functional.cross_entropy,
)
variant = wb.Variant.original(task)
wanted = variant.predict(held)
for size in (4, 6, 8):
    with wb.OptimizedInferenceEngine.from_variant(variant, backend="openvino", batch_size=size) as engine:
        given = engine.predict(tuple(x[:size].numpy() for x in held)).result
        assert abs(torch.from_numpy(given) - wanted[:size]).max() < 1e-4
        print(size, [note for note in engine.notes if "SNIPPETS" in note], file=sys.stderr)
print("alive")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"0")
    return str(path)


@pytest.fixture
def tried(monkeypatch):
    """Return a function that makes processes of a program try models, and the list of those started."""
    started = []
    monkeypatch.setattr(compiler_guard, "_TRIALS", compiler_guard._TrialProcess())
    monkeypatch.setattr(compiler_guard, "_disabled", False)

    def use(program):
        def start():
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            started.append(subprocess.Popen([sys.executable, "-c", program], text=True, **pipes))
            return started[-1]

        monkeypatch.setattr(compiler_guard, "_started", start)
        return started

    yield use
    for process in started:
        process.kill()
        process.communicate()


def test_nothing_is_started_in_a_process_that_may_crash(tried, file, monkeypatch):
    started = tried(DIES)
    compiler_guard.disable_trial_compile()
    assert crash_free_settings(file, None, "CPU", SETTINGS) == ({}, ())
    assert not started


def test_one_process_tries_all_models_each_once(tried, file):
    started = tried(LIVES)
    for shapes in ([[1, 3]], [[2, 3]], [[1, 3]]):
        assert crash_free_settings(file, shapes, "CPU", SETTINGS) == ({}, ())
    assert len(started) == 1
    assert len(compiler_guard._TRIALS._survived) == 2


def test_a_process_that_ended_while_it_was_idle_is_started_again(tried, file):
    started = tried(DIES_WHILE_IDLE)
    for size in range(3):
        assert crash_free_settings(file, [[size, 3]], "CPU", SETTINGS) == ({}, ())
    assert len(started) == 3
    assert len(compiler_guard._TRIALS._survived) == 3


def test_a_crash_leads_to_settings_that_survive_with_a_note(tried, file):
    started = tried(DIES_OF_SNIPPETS)
    settings, notes = crash_free_settings(file, None, "CPU", SETTINGS)
    assert settings == {"SNIPPETS_MODE": "DISABLE"}
    assert notes == (compiler_guard.SNIPPETS_NOTE,)
    assert len(started) == 2


def test_a_crash_in_spite_of_them_is_an_error_that_names_the_signal(tried, file):
    tried(DIES)
    with pytest.raises(EngineError, match=r"SIGSEGV.*model\.onnx.*onnxruntime"):
        crash_free_settings(file, None, "CPU", SETTINGS)


def test_a_process_that_cannot_start_refuses_nothing(tried, file):
    tried(CANNOT_START)
    assert crash_free_settings(file, None, "CPU", SETTINGS) == ({}, ())


@pytest.mark.slow
def test_towers_that_crash_the_compiler_leave_the_process_alive():
    """With a fixed batch, OpenVINO 2026.4 ends with a segmentation fault on them."""
    done = subprocess.run([sys.executable, "-c", TOWERS], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["alive"]), done.stderr[-2000:]
