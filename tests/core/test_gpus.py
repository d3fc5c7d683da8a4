"""Memory on a GPU: by process where the driver shows it, else of the device; what is not known says why."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from workbench.core import gpus
from workbench.core.gpus import GpuMemory, gpu_devices, number_or_none

MIB = 2**20
NA = "N/A"


class Device:
    """Stands for a device of nvitop: bytes used in all, and bytes by process."""

    def __init__(self, used, own=None):
        self.used, self.own = used, own or {}

    def memory_used(self):
        return self.used

    def processes(self):
        return {pid: SimpleNamespace(gpu_memory=lambda held=held: held) for pid, held in self.own.items()}


def test_what_the_driver_tells_of_the_process_wins_and_the_most_is_kept():
    device = Device(1000 * MIB)
    memory = GpuMemory(7, devices=[device])
    for held in (300, 500, 400):
        device.used, device.own = 1100 * MIB + held * MIB, {7: held * MIB, 8: 100 * MIB}
        memory.read()
    use = memory.peak(0)
    assert use.mib == 500 and "of this process" in use.source


@pytest.mark.parametrize("own", [{}, {8: 100 * MIB}, {7: NA}])
def test_where_the_process_is_hidden_it_is_what_the_device_holds_more(own):
    device = Device(1000 * MIB, own)
    memory = GpuMemory(7, devices=[Device(0), device])
    for used in (1300, 1700, 1400):
        device.used = used * MIB
        memory.read()
    use = memory.peak(1)
    assert use.mib == 700 and "whole device" in use.source
    assert memory.peak(0).mib == 0


def test_what_cannot_be_known_says_why():
    memory = GpuMemory(7, devices=[Device(NA)])
    memory.read()
    assert memory.peak(0).mib is None and "reports no memory" in memory.peak(0).source
    assert memory.peak(3) == (None, "There is no GPU cuda:3 here.")


def test_without_a_gpu_the_reason_is_that_of_the_machine(monkeypatch):
    machine = SimpleNamespace(gpus=(), gpu_reason="No NVIDIA GPU: the driver is not loaded.")
    monkeypatch.setattr(gpus, "this_machine", lambda: machine)
    assert gpu_devices() == ((), machine.gpu_reason)
    memory = GpuMemory()
    memory.read()
    assert memory.peak() == (None, machine.gpu_reason)


def test_devices_are_those_that_cuda_shows(monkeypatch):
    nvitop = pytest.importorskip("nvitop")
    monkeypatch.setattr(gpus, "this_machine", lambda: SimpleNamespace(gpus=("A", "B"), gpu_reason=None))
    monkeypatch.setattr(nvitop.CudaDevice, "all", classmethod(lambda cls: ["B"]))
    assert gpu_devices() == (("B",), None)
    monkeypatch.setattr(nvitop.CudaDevice, "all", classmethod(lambda cls: []))
    assert gpu_devices() == ((), "CUDA_VISIBLE_DEVICES hides every GPU of this machine.")


def test_nvitops_na_is_no_figure():
    nvitop = pytest.importorskip("nvitop")
    assert number_or_none(nvitop.NA) is None and number_or_none(3) == 3.0


def test_this_process_is_the_default():
    device = Device(0, {os.getpid(): 5 * MIB})
    memory = GpuMemory(devices=[device])
    memory.read()
    assert memory.peak().mib == 5
