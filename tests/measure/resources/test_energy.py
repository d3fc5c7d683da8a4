"""Energy from counters that stand for those of a machine: what they say is known to the joule."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from workbench.core.errors import ConfigError, EngineError
from workbench.measure.resources import energy_counters
from workbench.measure.resources.energy import Energy, EnergyMeter, measure_energy
from workbench.measure.resources.energy_counters import NvmlPower, rapl_counters

RANGE = 262_143_328_850


class World:
    """A machine with its own time: domains of RAPL in a folder, which move on while it sleeps or works."""

    def __init__(self, root: Path, names: dict[str, str], *, control: str = "intel-rapl") -> None:
        self.root, self.now, self.folders = root, 0.0, {}
        for zone, name in names.items():
            folder = root / f"{control}:{zone}"
            folder.mkdir(parents=True)
            (folder / "name").write_text(f"{name}\n")
            (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
            self.set(folder, 0)
            self.folders[name] = folder

    @staticmethod
    def set(folder: Path, microjoules: int) -> None:
        (folder / "new").write_text(f"{microjoules % RANGE}\n")
        (folder / "new").replace(folder / "energy_uj")  # a reader never sees half of it

    def run(self, seconds: float, **watts: float) -> None:
        self.now += seconds
        for name, folder in self.folders.items():
            before = int((folder / "energy_uj").read_text())
            self.set(folder, before + round(1e6 * seconds * watts.get(name.replace("-", "_"), 10.0)))

    def meter(self, **options) -> EnergyMeter:
        options = {"idle_s": 2.0, "gpus": (), **options}
        return EnergyMeter(powercap=self.root, clock=lambda: self.now, sleep=self.run, **options)


@pytest.fixture(autouse=True)
def _linux(monkeypatch):
    monkeypatch.setattr(energy_counters.platform, "system", lambda: "Linux")


def test_the_power_at_rest_is_measured_and_subtracted(tmp_path):
    world = World(tmp_path, {"0": "package-0"})
    with world.meter() as meter:
        world.run(4.0, package_0=25.0)
    energy = meter.energy
    assert (energy.seconds, energy.total_joules, energy.idle_watts) == pytest.approx((4.0, 100.0, 10.0))
    assert energy.joules == pytest.approx(60.0) and energy.reason is None and energy.source == "RAPL package-0"
    assert str(energy) == "60 J in 4.00 s (15 W above 10 W idle; RAPL package-0)"


def test_a_counter_that_comes_round_goes_on(tmp_path):
    world = World(tmp_path, {"0": "package-0"})
    world.set(world.folders["package-0"], RANGE - 30_000_000)
    with world.meter() as meter:  # 21 J were taken at rest: 9 J before the limit
        world.run(4.0, package_0=25.0)
    assert int((world.folders["package-0"] / "energy_uj").read_text()) == 91_000_000
    assert meter.energy.total_joules == pytest.approx(100.0)


def test_packages_and_their_memory_are_summed_and_nothing_twice(tmp_path):
    names = {"0": "package-0", "0:0": "core", "0:1": "uncore", "0:2": "dram", "1": "package-1", "1:0": "psys"}
    World(tmp_path, {"0": "package-0"}, control="intel-rapl-mmio")  # the same package by another way
    world = World(tmp_path, names)
    with world.meter() as meter:
        world.run(1.0, package_0=20.0, package_1=30.0, dram=15.0, core=100.0, uncore=100.0, psys=1000.0)
    assert meter.energy.total_joules == pytest.approx(65.0) and meter.energy.joules == pytest.approx(35.0)
    assert meter.energy.source == "RAPL package-0, RAPL package-1, RAPL dram"


def test_a_platform_alone_is_taken_and_the_other_way_where_it_is_the_only_one(tmp_path):
    World(tmp_path / "a", {"0": "psys"})
    World(tmp_path / "b", {"0": "package-0"}, control="intel-rapl-mmio")
    World(tmp_path / "c", {"0": "core"})
    assert [c.name for c in rapl_counters(tmp_path / "a")[0]] == ["RAPL psys"]
    assert [c.name for c in rapl_counters(tmp_path / "b")[0]] == ["RAPL package-0"]
    assert rapl_counters(tmp_path / "c") == ([], f"{tmp_path / 'c'} lists neither a package nor a platform.")


def test_no_permission_says_the_command_that_gives_it(tmp_path, monkeypatch):
    world = World(tmp_path, {"0": "package-0", "1": "package-1"})
    read = Path.read_text

    def refused(path, *args, **options):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    found = measure_energy(lambda: None, meter=world.meter())
    assert found.energy_mj_per_sample is None and found.calls == 0
    first, second = (str(folder / "energy_uj") for folder in world.folders.values())
    assert f"sudo chmod a+r {first} {second}" in found.reason and "root only" in found.reason


def test_no_counter_at_all_is_said_without_waiting(tmp_path):
    def never(seconds):
        raise AssertionError("there is nothing to wait for")

    meter = EnergyMeter(gpus=(), powercap=tmp_path / "none", sleep=never)
    found = measure_energy(lambda: None, meter=meter)
    assert found.energy_mj_per_sample is None and "lists no RAPL domain" in found.reason
    with meter:
        pass
    assert meter.energy.joules is None and str(meter.energy).startswith("not measured: ")


def test_other_systems_say_that_they_have_no_such_file(tmp_path, monkeypatch):
    monkeypatch.setattr(energy_counters.platform, "system", lambda: "Windows")
    counters, reason = rapl_counters(tmp_path)
    assert counters == [] and reason is not None and "Windows" in reason


def test_a_damaged_file_is_no_counter(tmp_path):
    world = World(tmp_path, {"0": "package-0"})
    (world.folders["package-0"] / "energy_uj").write_text("much")
    assert rapl_counters(tmp_path)[0] == [] and "cannot be read" in rapl_counters(tmp_path)[1]


@pytest.mark.parametrize(("samples", "watts", "expected"), [(1, 30.0, 10_000.0), (4, 30.0, 2500.0), (4, 11.0, 125.0)])
def test_the_energy_of_a_sample(tmp_path, samples, watts, expected):
    world = World(tmp_path, {"0": "package-0"})
    found = measure_energy(
        lambda: world.run(0.5, package_0=watts), samples=samples, seconds=3.0, meter=world.meter(idle_s=1.0)
    )
    assert found.calls == 6 and found.energy_mj_per_sample == pytest.approx(expected) and found.reason is None


def test_no_more_than_at_rest_is_no_figure(tmp_path):
    world = World(tmp_path, {"0": "package-0"})
    found = measure_energy(lambda: world.run(0.5, package_0=9.0), seconds=1.0, meter=world.meter())
    assert found.energy_mj_per_sample is None and "not above idle (10 W)" in found.reason
    assert found.energy.joules < 0


class Nvml:
    """Stands for pynvml: GPUs with a counter of millijoules, or with power alone, or with neither."""

    class NVMLError(Exception):
        pass

    def __init__(self, world, *, counter=True, power=True, count=1):
        self.world, self.counter, self.power, self.count = world, counter, power, count
        self.millijoules, self.milliwatts = 5_000_000, 50_000

    def nvmlDeviceGetCount(self):  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return f"GPU {handle}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        if not self.counter:
            raise self.NVMLError("Not Supported")
        return self.millijoules + round(1e3 * self.world.now * 50)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        if not self.power:
            raise self.NVMLError("Not Supported")
        return self.milliwatts


def test_a_gpu_and_the_processor_are_summed(tmp_path):
    world = World(tmp_path, {"0": "package-0"})
    nvml = Nvml(world, count=2)
    with world.meter(gpus=(1,), nvml=nvml) as meter:
        world.run(2.0, package_0=20.0)
        nvml.millijoules += 300_000
    assert meter.energy.source == "RAPL package-0, NVML GPU 1" and meter.energy.reason is None
    assert meter.energy.idle_watts == pytest.approx(60.0)
    assert meter.energy.joules == pytest.approx(300.0 + 20.0)


def test_all_gpus_are_the_default_and_a_missing_processor_is_said(tmp_path):
    world = World(tmp_path, {})
    with world.meter(gpus=None, nvml=Nvml(world, count=2)) as meter:
        world.run(2.0)
    assert meter.energy.source == "NVML GPU 0, NVML GPU 1" and meter.energy.reason.startswith("Without the CPU: ")
    assert meter.energy.total_joules == pytest.approx(200.0)


def test_power_is_summed_up_where_there_is_no_counter(tmp_path):
    world = World(tmp_path, {})
    nvml = Nvml(world, counter=False)
    power = NvmlPower(0, "NVML GPU 0", nvml, clock=lambda: world.now)
    for seconds, milliwatts in ((1.0, 100_000), (2.0, 100_000), (1.0, 50_000)):
        world.now, nvml.milliwatts = world.now + seconds, milliwatts
        power.joules()
    assert power.joules() == pytest.approx(75 + 200 + 75)  # trapezoids
    (counter,), _ = energy_counters.nvml_counters(nvml=nvml)
    assert "integrated power" in counter.name and counter.every_s < 1


def test_a_gpu_that_tells_nothing_makes_the_whole_unknown(tmp_path):
    world = World(tmp_path, {"0": "package-0"})
    nvml = Nvml(world, counter=False, power=False)
    for gpus, words in (((0,), "neither energy nor power"), ((3,), "GPU cuda:3 does not exist")):
        assert words in measure_energy(lambda: None, meter=world.meter(gpus=gpus, nvml=nvml)).reason
    assert "no GPU" in world.meter(gpus=(0,), nvml=Nvml(world, count=0)).unavailable()
    with world.meter(gpus=None, nvml=nvml) as meter:  # nobody said that the work runs there
        world.run(1.0)
    assert meter.energy.source == "RAPL package-0"


def test_long_measurements_are_read_in_between(tmp_path, monkeypatch):
    world = World(tmp_path, {"0": "package-0"})
    monkeypatch.setattr(energy_counters.RaplDomain, "every_s", 0.002)
    reads = []
    read = energy_counters.RaplDomain.joules
    monkeypatch.setattr(energy_counters.RaplDomain, "joules", lambda self: reads.append(0) or read(self))
    meter = world.meter()
    with meter:
        for _ in range(4):  # comes round four times
            seen = len(reads)
            world.run(0.9 * RANGE / 1e6, package_0=1.0)
            while len(reads) < seen + 2:
                pass
    assert meter.energy.total_joules == pytest.approx(4 * 0.9 * RANGE / 1e6)


def test_wrong_use_is_told(tmp_path):
    meter = World(tmp_path, {"0": "package-0"}).meter()
    with pytest.raises(EngineError, match="never started"):
        meter.stop()
    meter.start()
    with pytest.raises(EngineError, match="already running"):
        meter.start()
    assert meter.stop() is meter.stop()


def test_an_error_in_the_block_ends_the_measurement(tmp_path):
    world = World(tmp_path, {"0": "package-0"})
    meter = world.meter()
    with contextlib.suppress(KeyboardInterrupt), meter:
        world.run(1.0)
        raise KeyboardInterrupt
    assert meter.energy.total_joules == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: EnergyMeter(idle_s=0), "idle_s must be a number of seconds above 0, got 0"),
        (lambda: EnergyMeter(gpus=(-1,)), "gpus must be an integer of at least 0"),
        (lambda: measure_energy(3), "call must be a function"),
        (lambda: measure_energy(print, samples=0), "samples must be an integer of at least 1"),
        (lambda: measure_energy(print, seconds="2"), "seconds must be a number of seconds above 0"),
        (lambda: measure_energy(print, seconds=float("nan")), "seconds must be a number of seconds above 0"),
    ],
)
def test_bad_arguments_are_answered_before_work_starts(ask, words):
    with pytest.raises(ConfigError, match=words):
        ask()


def test_an_empty_figure_says_why():
    assert str(Energy(1.0, reason="nothing tells")) == "not measured: nothing tells"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_no_thread_reads_on_when_the_rest_is_interrupted(tmp_path, error):
    world = World(tmp_path, {"0": "package-0"})
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 2:  # the one at rest, after settling
            raise error
        world.run(seconds)

    with pytest.raises(error):
        EnergyMeter(powercap=tmp_path, idle_s=2.0, gpus=(), clock=lambda: world.now, sleep=sleep).start()
    assert not [thread for thread in threading.enumerate() if thread.name == "workbench-energy"]
