import subprocess
import sys
import textwrap

import cloudpickle
import pytest
import torch
from torch import nn

from workbench.core.errors import TaskError
from workbench.tasks import Task, load_task
from workbench.tasks.load import load_module
from workbench.tasks.module import build_module

SOURCE = """
import torch
from torch import nn
from workbench.tasks import Task
{imports}

def build():
    torch.manual_seed(0)
    return {net}

def accuracy(outputs, targets):
    return (outputs.argmax(1) == targets).double().mean()

def mine():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(50, 3, generator=generator), torch.arange(50) % 2
    return Task(name="mine", build=build, train=(x[:40], y[:40]), evaluation=(x[40:], y[40:]),
                metric=accuracy, loss=nn.functional.cross_entropy)

def minus():
    return 3

def broken():
    raise RuntimeError("no disk")

def refuses():
    return Task(name="", build=build, train=None, evaluation=None, metric=accuracy, loss=accuracy)

number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my tasks.py"
    path.write_text(SOURCE.format(imports="", net="nn.Linear(3, 2)"))
    return path


def run_elsewhere(payload, tmp_path):
    (tmp_path / "payload").write_bytes(payload)
    code = "import cloudpickle, sys; print(cloudpickle.load(open(sys.argv[1], 'rb'))())"
    return subprocess.run(
        [sys.executable, "-c", code, tmp_path / "payload"], capture_output=True, text=True, check=True
    ).stdout


def test_a_file_gives_a_task_and_how_to_find_it_again(file):
    task = load_task(f"{file}:mine")
    assert task.check() == ()
    assert task.reference == f"{file.resolve()}:mine"
    assert load_task(task.reference).fingerprint == task.fingerprint


def test_a_relative_file(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert load_task("my tasks.py:mine").reference == f"{file.resolve()}:mine"


def test_functions_of_a_file_run_in_another_process(file, tmp_path):
    task = load_task(f"{file}:mine")
    assert "Linear(in_features=3, out_features=2" in run_elsewhere(cloudpickle.dumps(task.build), tmp_path)


def test_neighbors_of_a_file_travel_too(tmp_path):
    (tmp_path / "nets_beside_it.py").write_text(
        "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self): super().__init__(3, 2)\n"
    )
    path = tmp_path / "with_neighbour.py"
    path.write_text(SOURCE.format(imports="from nets_beside_it import Net", net="Net()"))
    task = load_task(f"{path}:mine")
    assert task.check() == ()
    assert "Net(in_features=3" in run_elsewhere(cloudpickle.dumps(task.build), tmp_path)


def test_an_edited_file_is_read_again(file):
    first = load_task(f"{file}:mine")
    assert load_task(f"{file}:mine").build is first.build
    file.write_text(file.read_text().replace('name="mine"', 'name="edited"'))
    assert load_task(f"{file}:mine").name == "edited"


def test_a_module_gives_a_task(tmp_path, monkeypatch):
    (tmp_path / "importable_tasks.py").write_text(SOURCE.format(imports="", net="nn.Linear(3, 2)"))
    monkeypatch.chdir(tmp_path)
    task = load_task("importable_tasks:mine")
    assert task.reference == "importable_tasks:mine" and task.name == "mine"


def test_tasks_and_functions_are_taken_as_they_are(file):
    task = load_task(f"{file}:mine")
    assert load_task(task) is task
    made = load_task(
        lambda: Task(
            name="x", build=task.build, train=task.train, evaluation=task.evaluation, metric=task.metric, loss=task.loss
        )
    )
    assert made.name == "x" and made.reference is None
    assert torch.equal(made.evaluation.inputs, task.evaluation.inputs)


def test_builtin_names():
    for name in ("digits", "digits_vit"):
        task = load_task(name)
        assert (task.name, task.reference) == (name, name)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digit", "Unknown task 'digit'. Did you mean 'digits'"),
        ("{file}", "Name the function too: "),
        ("{file}:mini", r"'mini' does not exist. Did you mean 'mine'\? Functions of that file: build, accuracy, mine"),
        ("{file}:number", "'number' is not a function"),
        ("{file}:minus", "must return a workbench Task, got int"),
        ("{file}:broken", "failed while it was made: RuntimeError: no disk"),
        ("{file}:refuses", "name must be one line"),
        ("{folder}/my task.py:mine", "The task file .*my task.py does not exist. Did you mean .*my tasks.py"),
        ("{folder}/none/a.py:mine", "Nor does the folder .*none"),
        ("no_such_module:mine", "The module 'no_such_module' is not on"),
        ("json.no_such_part:mine", "The module 'json.no_such_part' is not on"),
        ("json:no_such_function", "'no_such_function' does not exist"),
        (":mine", "does not name a function"),
        ("a.py:not a name", "does not name a function"),
        ("", "must be one line"),
    ],
)
def test_wrong_specs_are_answered(spec, words, file):
    with pytest.raises(TaskError, match=words):
        load_task(spec.format(file=file, folder=file.parent))


def test_a_module_is_found_in_the_same_way(file):
    module = load_module(f"{file}:build")
    assert not module.training and module is not load_module(f"{file}:build")
    with pytest.raises(TaskError, match=r"must return a torch\.nn\.Module, got Task"):
        load_module(f"{file}:mine")
    with pytest.raises(TaskError, match=r"Model '.*:broken' failed while it was made: RuntimeError: no disk"):
        load_module(f"{file}:broken")
    with pytest.raises(TaskError, match="The model file"):
        load_module("nowhere/model.py:build")
    with pytest.raises(TaskError, match=r"Unknown model 'digits'\. Give 'path/to/file\.py:function' or"):
        load_module("digits")


def test_a_wrapper_for_several_devices_is_taken_off(tmp_path):
    path = tmp_path / "several.py"
    path.write_text("from torch import nn\n\ndef wrapped():\n    return nn.DataParallel(nn.Linear(2, 3))\n")
    assert type(load_module(f"{path}:wrapped")) is nn.Linear
    assert type(build_module(lambda: nn.DataParallel(nn.Linear(2, 3)), whose="Task x")) is nn.Linear


def test_errors_inside_files_and_modules(tmp_path, monkeypatch):
    (tmp_path / "syntax_trouble.py").write_text("def mine(:\n")
    (tmp_path / "lacks_package.py").write_text("import a_package_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="cannot be imported: SyntaxError"):
        load_task("syntax_trouble.py:mine")
    with pytest.raises(TaskError, match="cannot be imported: ModuleNotFoundError: No module named 'a_package"):
        load_task("lacks_package.py:mine")
    with pytest.raises(TaskError, match="lacks_package needs 'a_package_nobody_has', which is not installed"):
        load_task("lacks_package:mine")
    with pytest.raises(TaskError, match="The module syntax_trouble cannot be imported: SyntaxError"):
        load_task("syntax_trouble:mine")
    assert not [name for name in sys.modules if "syntax_trouble" in name]


def test_the_room_is_light():
    code = textwrap.dedent("""
        import sys, workbench.tasks
        assert "torch" not in sys.modules
        import workbench.tasks.trees
        assert "torch" not in sys.modules
        assert "digits_vit" in dir(workbench.tasks)
        try:
            workbench.tasks.nothing
        except AttributeError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no attribute 'nothing'" in done.stdout
