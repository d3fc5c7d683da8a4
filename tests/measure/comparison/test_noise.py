"""The noise floor: pairs of loads, what is kept, and what a verdict makes of it."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

import workbench as wb
from workbench.compress.variant import Variant
from workbench.core.errors import BackendUnavailable, ConfigError
from workbench.core.files import write_json
from workbench.core.machine import fingerprint_id
from workbench.measure.comparison import noise
from workbench.measure.comparison.noise import NoiseFloor, cached_noise, machine_floor, measure_noise, noise_text


@pytest.mark.slow
def test_pairs_of_real_engines_give_a_floor_that_is_kept(tiny_task, monkeypatch):
    monkeypatch.setattr(noise, "PAIR_S", 0.1)
    monkeypatch.setattr(noise, "_BLOCK_S", 0.005)
    said = []
    found = measure_noise(
        Variant.original(tiny_task), backends=["torch-eager", "onnxruntime"], budget_s=0, progress=said.append
    )
    assert len(found.apart) == noise.MIN_PAIRS
    assert 0.01 <= found.floor <= math.expm1(1.96 * np.max(np.abs(np.log(found.apart)))) + 0.01
    assert found.fingerprint == fingerprint_id()
    assert [event.message for event in said][:2] == [
        "pair 1: torch-eager, batch 1",
        "pair 2: onnxruntime, batch 1",
    ]
    assert cached_noise() == found
    assert machine_floor() == found.floor
    assert f"noise floor {100 * found.floor:.1f} %" in noise_text(cached_noise())


def test_the_error_of_each_timing_is_taken_out():
    rng = np.random.default_rng(0)
    loads, errors = rng.normal(0, 0.01, 4000), rng.normal(0, 0.03, 4000)
    assert noise._floor([(r, 0.03) for r in np.exp(loads + errors)]).floor == pytest.approx(0.0198, rel=0.15)
    assert noise._floor([(r, 0.0) for r in np.exp(loads)]).floor == pytest.approx(0.0198, rel=0.05)
    some = rng.choice([0.001, 0.03], 4000)  # a few that are sure of themselves do not decide alone
    mixed = np.exp(loads + rng.normal(0, some))
    assert noise._floor(list(zip(mixed, some, strict=True))).floor == pytest.approx(0.0198, rel=0.1)
    assert noise._floor([(1.001, 0.03)] * 6).floor == 0.01


def test_nothing_is_known_before_it_was_measured_and_that_is_said():
    assert cached_noise() is None
    assert machine_floor() == 0.02
    assert "assumed" in noise_text(None) and "workbench noise" in noise_text(None)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"floor": 1}), ""])
def test_a_file_that_cannot_be_understood_is_as_none(text):
    noise._path().parent.mkdir(parents=True)
    noise._path().write_text(text)
    assert cached_noise() is None


@pytest.mark.parametrize(("batch_size", "expected"), [(None, [1, 1, 8, 8, 1, 1]), (4, [4] * 6)])
def test_backends_and_batch_sizes_take_turns(tiny_task, monkeypatch, batch_size, expected):
    pairs = []
    monkeypatch.setattr(
        noise, "_aa_pair", lambda _, name, batch, seed: pairs.append((name, batch)) or (1.01, 0.0, False)
    )
    backends = ["torch-eager", "onnxruntime"]
    measure_noise(Variant.original(tiny_task), backends=backends, batch_size=batch_size, budget_s=0, keep=False)
    assert pairs == list(zip(backends * 3, expected, strict=True))


def test_keep_false_writes_nothing(tiny_task, monkeypatch):
    monkeypatch.setattr(noise, "_aa_pair", lambda *args, seed: (1.01, 0.0, False))
    measure_noise(Variant.original(tiny_task), backends=["onnxruntime"], budget_s=0, keep=False)
    assert cached_noise() is None


def test_a_floor_measured_beside_other_work_says_so_and_replaces_no_quiet_one(tiny_task, monkeypatch):
    def measured(ratio, disturbed):
        monkeypatch.setattr(noise, "_aa_pair", lambda *args, seed: (ratio, 0.0, disturbed))
        return measure_noise(Variant.original(tiny_task), backends=["onnxruntime"], budget_s=0)

    busy = measured(1.5, True)
    assert busy.busy and cached_noise() == busy
    assert "6 disturbed, re-run `workbench noise` on an idle machine" in noise_text(busy)
    quiet = measured(1.01, False)
    assert not quiet.busy and cached_noise() == quiet and "disturbed" not in str(quiet)
    assert measured(1.5, True).busy and cached_noise() == quiet


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget_s": -1}, "budget_s must be a number of seconds"),
        ({"budget_s": "60"}, "budget_s"),
        ({"batch_size": 0}, "batch_size"),
        ({"backends": []}, "backends"),
        ({"backends": "openvino"}, "list or tuple"),
    ],
)
def test_what_cannot_be_used_is_refused(tiny_task, options, words):
    with pytest.raises(ConfigError, match=words):
        measure_noise(Variant.original(tiny_task), **options)


def test_an_unknown_backend_is_told_before_anything_is_timed(tiny_task, monkeypatch):
    monkeypatch.setattr(noise, "_aa_pair", lambda *args, seed: pytest.fail("timed"))
    with pytest.raises((ConfigError, BackendUnavailable), match="onxruntime"):
        measure_noise(Variant.original(tiny_task), backends=["onxruntime"])


class Sleeper:
    def __init__(self, name, seconds):
        self.backend, self.seconds, self.threads = name, seconds, 1

    def predict(self, inputs):
        import time

        time.sleep(self.seconds)
        return inputs


def keep(floor):
    known = NoiseFloor(floor, (1.0, 1.0 + floor), "here", fingerprint_id(), "2026-01-01")
    write_json(noise._path(), dataclasses.asdict(known))


def test_a_comparison_takes_the_floor_of_this_machine_and_prints_it():
    keep(0.9)
    found = wb.compare(Sleeper("a", 0.002), Sleeper("b", 0.0015), np.zeros((1, 2)), block_s=0.01, rounds=(6, 8))
    assert found.verdict == "undecided"  # a third faster, on a machine whose loads differ by nine tenths
    assert "A/A noise floor 90.0 % (2 pairs of loads, 2026-01-01)" in repr(found)
    assert "system load: " in repr(found) and found.conditions is not None
    given = wb.compare(
        Sleeper("a", 0.004), Sleeper("b", 0.001), np.zeros((1, 2)), block_s=0.01, rounds=(6, 8), floor=0.01
    )
    assert given.verdict == "faster" and "noise floor 1.0 % (given)" in repr(given)


@pytest.mark.slow
def test_the_command_measures_and_prints(monkeypatch, capsys):
    from workbench.cli.main import main

    monkeypatch.setattr(noise, "_aa_pair", lambda *args, seed: (1.03, 0.0, False))
    assert main(["noise", "--backends", "onnxruntime", "--budget-s", "0"]) == 0
    assert capsys.readouterr().out.startswith("A/A noise floor 6.0 %")
    assert main(["noise", "--backends", "onnxruntime", "--budget-s", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["floor"] == pytest.approx(1.03**1.96 - 1)
    assert machine_floor() == pytest.approx(1.03**1.96 - 1)
    assert "quieter" not in capsys.readouterr().err
    monkeypatch.setattr(noise, "_aa_pair", lambda *args, seed: (1.5, 0.0, True))
    assert main(["noise", "--backends", "onnxruntime", "--budget-s", "0"]) == 0
    assert "quieter machine: A/A noise floor 6.0 %" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["digits", 3])
def test_what_is_no_variant_is_refused(given):
    with pytest.raises(ConfigError, match="measure_noise: variant must be a Variant"):
        measure_noise(given)
