"""What the study asks a timing process for beside its times, and what the process answers, with stand-ins for both."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from workbench.core.gpus import GpuUse
from workbench.measure.resources.energy import CallEnergy, Energy
from workbench.study.execution import timing_pool
from workbench.study.execution.timing_columns import FOOTPRINT
from workbench.study.workers import timing_main
from workbench.study.workers.process import CancelToken, WorkerError
from workbench.study.workers.timing_client import EngineProcess
from workbench.study.workers.timing_main import TimingWorker


class WorkerProcess:
    """Stands for a process: answers as given, and keeps what it was asked."""

    def __init__(self, *, gpu=None, energy=(2.5, "RAPL package-0")):
        self.gpu, self.energy, self.asked = gpu, energy, []

    def ask(self, command, **fields):
        self.asked.append(command)
        if command == "energy":
            if isinstance(self.energy, Exception):
                raise self.energy
            return {"energy": list(self.energy)}
        return {"rss": [90.0, None], "pss": [70.0, "read"], "allocator": [None, "torch alone"], "gpu": self.gpu}


def arm(worker, *, seconds=None):
    stop = SimpleNamespace(remaining=lambda: CancelToken().remaining() if seconds is None else seconds)
    return EngineProcess("arm", SimpleNamespace(), SimpleNamespace(stop=stop), worker)


def test_an_arm_notes_every_figure_once():
    worker = WorkerProcess()
    found = arm(worker)
    for _ in range(2):
        found.measure_footprint()
    assert worker.asked == ["memory", "energy"]
    assert set(found.figures) == set(FOOTPRINT)
    assert found.figures["peak_rss_mib"] == (90.0, None) and found.figures["peak_pss_mib"] == (70.0, "read")
    assert found.figures["gpu_memory_mib"] == (None, "It ran on the CPU.")
    assert found.figures["energy_mj_per_sample"] == (2.5, "RAPL package-0")


def test_the_memory_of_a_gpu_is_that_of_the_device_it_ran_on():
    found = arm(WorkerProcess(gpu=1))
    found.gpu = SimpleNamespace(peak=lambda index: GpuUse(100.0 * index, "by process"))
    found.measure_footprint()
    assert found.figures["gpu_memory_mib"] == (100.0, "by process")


def test_energy_takes_no_row_along():
    late = arm(WorkerProcess(), seconds=5.0)
    late.measure_footprint()
    assert late.figures["energy_mj_per_sample"] == (None, "The time budget did not allow it.")
    assert late.worker.asked == ["memory"]
    broken = arm(WorkerProcess(energy=WorkerError("NVMLError", "GPU is lost", "")))
    broken.measure_footprint()
    assert broken.figures["energy_mj_per_sample"] == (None, "It could not be measured: GPU is lost")


def test_the_twin_of_the_baseline_is_not_asked(monkeypatch):
    """It has no row."""
    asked = []
    made = {}
    for name in ("base", "one", timing_pool.AA_REPLICA):
        made[name] = SimpleNamespace(
            name=name,
            opened={},
            worker=SimpleNamespace(alive=True, wait_ready=lambda: None),
            measure_footprint=lambda name=name: asked.append(name),
        )
    room = timing_pool.TimingPool(SimpleNamespace())
    room._started = made
    monkeypatch.setattr(room, "prestart", lambda *args, **options: None)
    monkeypatch.setattr(timing_pool, "open_arms", lambda started, failed: started)
    for name in ("start_baseline", "baseline"):
        monkeypatch.setattr(room, name, lambda trial: made["base"])
    rounds = SimpleNamespace(blocks={name: [] for name in made}, lost={})
    monkeypatch.setattr(timing_pool, "interleave", lambda *args, **options: rounds)
    trials = [SimpleNamespace(key="base", baseline=True), SimpleNamespace(key="one", baseline=False)]
    found = room.time(trials, trials[0], replica=True, rounds=(1, 1), block_s=0.1, budget_s=1.0, after_round=print)
    assert sorted(asked) == ["base", "one"] and set(found.arms) == set(made)


class Engine:
    """Stands for an engine on a device."""

    def __init__(self, place, device=None):
        self.placement, self.config = SimpleNamespace(place=place), SimpleNamespace(device=device)

    def predict(self, inputs):
        return SimpleNamespace(metrics=SimpleNamespace(peak_memory_mib=12.0))


def process(place, device=None, *, backend="torch-eager"):
    made = TimingWorker(backend, print)
    made._engine, made._inputs = Engine(place, device), np.ones((4, 2))
    return made


@pytest.mark.parametrize(
    ("place", "device", "index"),
    [
        ("cuda:1", None, 1),
        ("cuda", None, 0),
        ("CUDAExecutionProvider", "cuda:2", 2),
        ("TensorrtExecutionProvider", None, 0),
        ("CPUExecutionProvider", None, None),
        ("cpu", None, None),
        ("GPU", None, None),  # OpenVINO's, which is Intel's
    ],
)
def test_a_process_tells_on_which_cuda_device_it_runs(place, device, index):
    assert process(place, device)._gpu() == index


def test_torchs_allocator_is_asked_where_torch_runs():
    assert process("cuda:0")._allocator() == (12.0, "Weights and calls, in torch's allocator on the GPU.")
    mib, words = process("cpu")._allocator()
    assert mib == 0 and "CPU allocator" in words
    mib, words = process("CPUExecutionProvider", backend="onnxruntime")._allocator()
    assert mib is None and words.startswith("onnxruntime has no counter of its allocator")


def test_a_profiler_that_fails_is_a_reason(monkeypatch):
    def broken(call):
        raise RuntimeError("Kineto is not there")

    monkeypatch.setattr("workbench.measure.resources.memory.torch_call_peak_mib", broken)
    mib, words = process("cpu")._allocator()
    assert mib is None and words.endswith("RuntimeError: Kineto is not there")


@pytest.mark.parametrize(("place", "gpus"), [("cpu", ()), ("cuda:1", (1,))])
def test_energy_is_that_of_the_device_it_runs_on_and_of_a_sample(monkeypatch, place, gpus):
    asked = {}

    def meter(*, idle_s, gpus):
        asked.update(idle_s=idle_s, gpus=gpus)
        return "meter"

    def measure(call, *, samples, seconds, meter):
        asked.update(samples=samples, seconds=seconds, meter=meter)
        return CallEnergy(3.0, None, 9, Energy(1.0, 1.0, 2.0, 5.0, "RAPL package-0", "Without something."))

    monkeypatch.setattr(timing_main, "EnergyMeter", meter)
    monkeypatch.setattr(timing_main, "measure_energy", measure)
    answer = process(place).energy({"seconds": 1.0, "idle_s": 0.5}, b"")
    assert asked == {"idle_s": 0.5, "gpus": gpus, "samples": 4, "seconds": 1.0, "meter": "meter"}
    words = "RAPL package-0; the power of the idle machine is subtracted. Without something."
    assert answer == {"energy": (3.0, words)}


def test_without_a_counter_the_answer_is_the_reason(monkeypatch):
    found = CallEnergy(None, "no counter", 0, Energy(0.0, reason="no counter"))
    monkeypatch.setattr(timing_main, "measure_energy", lambda *args, **options: found)
    assert process("cpu").energy({"seconds": 1.0, "idle_s": 0.5}, b"") == {"energy": (None, "no counter")}
