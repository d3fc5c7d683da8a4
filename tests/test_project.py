"""pyproject.toml, constraints.txt, environment.yml, the Makefile and the README say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = (ROOT / "environment.yml").read_text()


def distribution(requirement: str) -> str:
    """Return the normalised distribution name of a requirement line."""
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
    assert set(pinned) <= {distribution(line) for line in PROJECT["dependencies"]}


def test_the_core_packages_are_dependencies() -> None:
    core = {"jupyterlab", "ipywidgets", "torch", "onnxruntime", "matplotlib", "pandas", "nvitop", "torch-pruning"}
    assert core <= {distribution(line) for line in PROJECT["dependencies"]}


def test_readme_names_what_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert {"report", "test", "lab"} <= named <= targets
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
    assert "pip install --constraint constraints.txt --editable" in README
    assert "conda env create -f environment.yml" in README


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

    assert wb.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


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
