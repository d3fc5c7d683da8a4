"""pyproject.toml, constraints.txt, environment.yml, the Makefile and the README say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from paths import ROOT

from workbench.core import lazy

README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = (ROOT / "environment.yml").read_text()


def distribution(requirement: str) -> str:
    """Return the normalized distribution name of a requirement line."""
    return re.split(r"[<>=!~;\[ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_environment_installs_this_project_through_the_same_constraints() -> None:
    assert "--constraint constraints.txt" in ENVIRONMENT
    assert "--editable .[dev]" in ENVIRONMENT
    assert f"name: {PROJECT['name']}" in ENVIRONMENT
    wanted = PROJECT["requires-python"].removeprefix(">=")
    assert f"python={wanted}" in ENVIRONMENT


def test_constraints_pin_only_what_the_project_depends_on() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {distribution(line): line for line in lines}
    assert "torch==" in pinned["torch"]
    assert set(pinned) <= installed("lab")


def installed(*extras: str) -> set[str]:
    """Return the distributions that this project and these extras ask for, its own extras followed."""
    found: set[str] = set()
    lines = [*PROJECT["dependencies"], *(x for extra in extras for x in PROJECT["optional-dependencies"][extra])]
    for line in lines:
        own = re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", line)
        found |= installed(*own[1].split(",")) if own else {distribution(line)}
    return found


def test_the_base_and_the_runtime_stay_small() -> None:
    assert installed() == {"lazy-loader", "numpy", "platformdirs", "psutil"}
    assert installed("runtime") == installed() | {"onnx", "onnxruntime", "openvino"}
    assert installed("loadgen") == installed("runtime") | {"mlcommons-loadgen"}


def test_the_lab_has_all_that_a_report_needs_and_every_other_extra_has_the_lab() -> None:
    core = {"jupyterlab", "ipywidgets", "torch", "onnxruntime", "matplotlib", "pandas", "nvitop", "torch-pruning"}
    assert core <= installed("lab")
    for extra in set(PROJECT["optional-dependencies"]) - {
        "runtime",
        "loadgen",
    }:  # these run where nothing is compressed
        assert installed("lab") <= installed(extra), extra


def test_what_is_said_about_missing_packages_fits_the_extras() -> None:
    modules = {"IPython": "ipykernel", "nbformat": "nbconvert", "traitlets": "ipywidgets", "pynvml": "nvidia-ml-py"}
    modules["mlperf_loadgen"] = "mlcommons-loadgen"
    assert {"lab", "runtime", "loadgen", "cluster"} == set(lazy.EXTRAS)
    for extra, names in lazy.EXTRAS.items():
        assert {modules.get(name, distribution(name)) for name in names} <= installed(extra)
    assert lazy.install_command("runtime") in README and lazy.install_command("lab") in README


def test_readme_names_what_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert {"report", "test", "lab"} <= named <= targets
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
    assert "pip install --constraint constraints.txt --editable" in README
    assert "conda env create -f environment.yml" in README


def test_architecture_names_what_exists() -> None:
    paths = re.findall(r"`([a-z0-9_/]+\.(?:pyi?|ipynb))`", (ROOT / "ARCHITECTURE.md").read_text())
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / "workbench" / path).exists() and not (ROOT / path).exists()] == []


def test_readme_code_runs_against_the_public_names() -> None:
    import workbench as wb

    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        for name in re.findall(r"\bwb\.(\w+)", block):
            assert name in wb.__all__, name


def test_version_is_one() -> None:
    import workbench as wb

    assert PROJECT["dynamic"] == ["version"]  # hatchling reads it from the package
    assert f"## {wb.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_licence_is_apache() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:400]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.name)
def test_notebooks_are_stripped_short_and_know_their_kernel(path: Path) -> None:
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 15
