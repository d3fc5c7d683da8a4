"""Backends of other packages, by entry point."""

from __future__ import annotations

import importlib.metadata
import sys
import types

import numpy as np
import pytest

from workbench.core.errors import BackendUnavailable, ConfigError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine
from workbench.engine.backends import backend_status, get_backend
from workbench.engine.backends.base import Availability, Capabilities
from workbench.report import doctor


class Session:
    device, threads, placement, notes = "abacus", 1, "abacus", ()

    def run(self, inputs):
        return [np.full((len(inputs[0]), 5), 7, np.float32)], 0.0

    def close(self):
        pass


class Abacus:
    name = "abacus"
    capabilities = Capabilities(formats=("onnx",), devices=("beads",), dynamic_batch=False, threads="none")

    def status(self):
        return Availability("abacus", True, "3.0")

    def load(self, source, config):
        return Session()


class Failing(Abacus):
    name = "failing"

    def status(self):
        raise RuntimeError("beads are missing\nat line 3")


@pytest.fixture
def installed(monkeypatch):
    """Offer a good backend and three broken ones, and one that takes a built-in name."""
    module = types.ModuleType("beads")
    module.GOOD, module.FAILING, module.NONE = Abacus(), Failing(), object()
    monkeypatch.setitem(sys.modules, "beads", module)
    places = {
        "abacus": "beads:GOOD",
        "failing": "beads:FAILING",
        "hollow": "beads:NONE",
        "lost": "no_such_module:BACKEND",
        "openvino": "beads:GOOD",
    }
    points = [importlib.metadata.EntryPoint(name, where, "workbench.backends") for name, where in places.items()]

    def entry_points(*, group):
        return points if group == "workbench.backends" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_another_packages_backend_runs_by_its_name(installed, images):
    with OptimizedInferenceEngine.from_variant(images, backend="abacus", verify=False) as engine:
        assert engine.predict(images.task.examples(2).numpy()).result.tolist() == [[7.0] * 5] * 2
        assert str(engine.placement) == "abacus"
    with pytest.raises(ConfigError, match=r"Unknown backend 'abacu'\. Did you mean 'abacus'"):
        InferenceConfig(backend="abacu")
    assert get_backend("openvino").capabilities.formats == ("onnx",)
    assert type(get_backend("openvino")).__name__ == "OpenVino"


def test_a_broken_one_is_told_and_takes_no_other_along(installed, images):
    states = {state.name: state for state in backend_status()}
    assert states["abacus"].available and states["openvino"].available
    assert states["failing"].reason == "beads are missing"
    assert "no_such_module" in states["lost"].reason
    assert "has no name, capabilities, status, load" in states["hollow"].reason
    with pytest.raises(BackendUnavailable, match=r"Backend 'lost' of another package cannot be loaded: ModuleNotFound"):
        OptimizedInferenceEngine.from_variant(images, backend="lost")


def test_doctor_shows_them_too(installed):
    lines = doctor.system_info_text(doctor.system_info()).splitlines()
    (good,) = [line for line in lines if line.startswith("  abacus ")]
    assert "available   3.0" in good and good.endswith("threads not set  fixed batch")
    assert any(line.startswith("  lost ") and "missing" in line for line in lines)


def test_capabilities_in_words():
    assert str(Abacus.capabilities) == "onnx; beads; float32; fixed batch; threads not set"
