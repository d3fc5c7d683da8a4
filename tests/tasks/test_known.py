"""What names a task that ships without loading it changes with everything that the task is made of."""

import subprocess
import sys

import pytest

from workbench.core.errors import TaskError
from workbench.tasks import known
from workbench.tasks.known import BUILTIN, builtin_key


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Let the data of the tasks lie in a folder that a test may change."""
    from workbench.tasks.data import data_dir

    names = {name for files in known._DATA.values() for name in files}
    for name in names:
        (tmp_path / name).write_bytes((data_dir() / name).read_bytes())
    monkeypatch.setattr(known, "data_dir", lambda: tmp_path)
    return tmp_path


def test_each_task_has_a_key_of_its_own_that_stays():
    keys = {name: builtin_key(name) for name in ("digits", "digits_vit")}
    assert None not in keys.values() and len(set(keys.values())) == 2
    assert keys == {name: builtin_key(name) for name in keys}


def test_only_what_ships_has_one():
    assert builtin_key("tasks.py:mine") is None and builtin_key("package.module:digits") is None


def test_it_changes_with_the_data_and_only_for_the_tasks_that_use_it(copied):
    before = {name: builtin_key(name) for name in ("digits", "digits_vit")}
    with open(copied / "digits_resnet.safetensors", "r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    assert builtin_key("digits") != before["digits"] and builtin_key("digits_vit") == before["digits_vit"]
    (copied / "digits.npz").unlink()
    assert builtin_key("digits") is None  # loading it says what is missing


def test_it_changes_with_the_libraries_and_the_machine(monkeypatch):
    keys = [builtin_key("digits")]
    versions = known.library_versions
    monkeypatch.setattr(known, "library_versions", lambda names: {**versions(names), "torch": "0.0"})
    keys.append(builtin_key("digits"))
    monkeypatch.setattr(known, "fingerprint_id", lambda: "another")
    keys.append(builtin_key("digits"))
    assert len(set(keys)) == 3


def test_it_changes_with_the_code(monkeypatch):
    before = builtin_key("digits")
    monkeypatch.setattr(known, "_CODE", ("tasks",))
    assert builtin_key("digits") != before


def test_a_task_without_its_package_has_none(monkeypatch):
    monkeypatch.setattr(known, "_PACKAGES", {"minilm": "no_such_package"})
    assert builtin_key("minilm") is None


@pytest.mark.parametrize("name", BUILTIN)
def test_a_study_of_it_may_be_called_by_its_name_before_it_is_loaded(name):
    from workbench.tasks.load import load_task

    if builtin_key(name) is None:  # its package is not installed, and the error says how to
        with pytest.raises(TaskError) as missing:
            load_task(name)
        pytest.skip(str(missing.value))
    assert load_task(name).name == name


def test_no_torch_is_needed_for_it():
    code = (
        "import sys; from workbench.tasks.known import builtin_key; "
        "builtin_key('digits'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
