import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from workbench.core.errors import TaskError
from workbench.tasks import builtin, digits, digits_vit
from workbench.tasks.models import DigitsResNet, DigitsViT
from workbench.tasks.split import ROLES


def test_digits_are_what_the_readme_says():
    task = digits()
    assert (len(task.evaluation), sum(len(task.split(r)) for r in ROLES)) == (3005, 10_000)
    images, labels = task.evaluation.inputs, task.evaluation.targets
    assert images.dtype == torch.float32 and images.shape[1:] == (1, 32, 32)
    everywhere = torch.bincount(builtin.digits_data()[1])
    assert torch.bincount(labels).tolist() == [-(-3 * int(n) // 10) for n in everywhere] and len(everywhere) == 10
    levels = (images * builtin.STD + builtin.MEAN) * 15
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert levels.min() >= 0 and levels.max() < 15.001
    assert abs(float(images.mean())) < 0.1 and abs(float(images.std()) - 1) < 0.1


def readme_accuracy(network):
    lines = (builtin.data_dir() / "README.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{network}`, ")]
    return float(line.rstrip(" |%").rpartition("|")[2]) / 100


NETWORKS = [(digits, "DigitsResNet"), (digits_vit, "DigitsViT")]


@pytest.mark.parametrize(("make", "network"), NETWORKS)
def test_shipped_networks_are_as_good_as_the_readme_says(make, network):
    task = make()
    assert task.parameter_names == ("image",) and type(task.model()).__name__ == network
    some = task.evaluation.take(range(0, 3005, 6))
    # 501 digits: three standard deviations are 3 points
    assert task.evaluate(task.model(), split=some) == pytest.approx(readme_accuracy(network), abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "network"), NETWORKS)
def test_accuracy_over_all_evaluation_digits(make, network):
    task = make()
    assert task.evaluate(task.model()) == pytest.approx(readme_accuracy(network), abs=0.0011)


@pytest.mark.parametrize("name", builtin.SHA256)
def test_readme_lists_the_shipped_files(name):
    path = builtin.data_dir() / name
    lines = (builtin.data_dir() / "README.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{name}`")]
    assert builtin.SHA256[name] in line and f"{path.stat().st_size:,}" in line


def test_both_tasks_pass_their_check():
    assert digits().check() == digits_vit().check() == ()
    assert digits().fingerprint != digits_vit().fingerprint
    assert digits().evaluation.digest == digits_vit().evaluation.digest


def test_network_sizes():
    def macs(model):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(torch.zeros(1, 1, 32, 32))
        return counter.get_total_flops() / 2

    def params(model):
        return sum(p.numel() for p in model.parameters())

    assert 0.25e6 < params(DigitsResNet()) < 0.35e6 and 15e6 < macs(DigitsResNet()) < 25e6
    assert params(DigitsViT()) < 0.5e6
    for name in ("digits_resnet", "digits_vit"):
        assert (builtin.data_dir() / f"{name}.safetensors").stat().st_size < 2e6
    assert (builtin.data_dir() / "digits.npz").stat().st_size < 6e6


@pytest.mark.parametrize("model", [DigitsResNet(), DigitsViT()])
def test_networks_take_any_batch_and_export(model):
    example = torch.randn(3, 1, 32, 32)
    program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    for n in (2, 5):
        x = torch.randn(n, 1, 32, 32)
        with torch.no_grad():
            assert torch.allclose(program.module()(x), model(x), atol=1e-4)


def test_attention_equals_the_formula():
    torch.manual_seed(0)
    layer = DigitsViT(width=12, depth=1, heads=3, hidden=8).blocks[0].attention
    x = torch.randn(2, 5, 12)
    q, k, v = (t.reshape(2, 5, 3, 4).transpose(1, 2) for t in layer.qkv(x).chunk(3, dim=-1))
    weights = torch.softmax(q @ k.transpose(-1, -2) / 2, dim=-1)
    assert torch.allclose(layer(x), layer.proj((weights @ v).transpose(1, 2).reshape(2, 5, 12)), atol=1e-6)


def test_jitter_moves_a_little_and_repeats():
    images = torch.zeros(64, 1, 32, 32)
    images[:, :, 15:17, 15:17] = 1.0
    first, second = (builtin.jitter(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == images.shape
    assert set(first.unique().tolist()) == {0.0, 1.0}
    rows = first.sum((1, 3)).argmax(1)
    assert rows.unique().numel() > 4 and int(rows.min()) >= 10 and int(rows.max()) <= 21


def test_accuracy_is_the_share_of_right_answers():
    logits = torch.eye(4)
    assert builtin.accuracy(logits, torch.tensor([0, 1, 2, 0])) == 0.75


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "digits.npz"
    with pytest.raises(TaskError, match="is missing"):
        builtin.verify_file(path, "0")
    path.write_bytes(b"not this")
    with pytest.raises(TaskError, match="damaged or changed: its sha256"):
        builtin.verify_file(path, "0" * 64)


def test_data_folder_of_a_wheel_and_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "__file__", str(tmp_path / "workbench" / "tasks" / "builtin.py"))
    with pytest.raises(TaskError, match=r"no digits.npz in .*_data and .*data"):
        builtin.data_dir()
    for folder in (tmp_path / "data", tmp_path / "workbench" / "_data"):
        folder.mkdir(parents=True)
        (folder / "digits.npz").touch()
        assert builtin.data_dir() == folder.resolve()


@pytest.fixture
def make_digits():
    spec = importlib.util.spec_from_file_location("make_digits", builtin.data_dir() / "make_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bilinear_equals_torch(make_digits):
    rng = np.random.default_rng(0)
    image = rng.random((28, 28))
    row, column = rng.uniform(-3, 31, (2, 32, 32))
    grid = torch.from_numpy(np.stack([column, row], -1) / 27 * 2 - 1)[None]
    expected = nn.functional.grid_sample(torch.from_numpy(image)[None, None], grid, align_corners=True)
    assert np.allclose(make_digits.bilinear(image, row, column), expected[0, 0])


def test_the_script_makes_a_file_that_loads(make_digits, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "src" / "digits"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for digit in range(10):
        (folder / f"{digit}.json").write_text(json.dumps({"data": rng.random(20 * 784).round(3).tolist()}))
    sums = []
    for name in ("a.npz", "b.npz"):
        arguments = ["make_digits.py", "--source", str(tmp_path), "--output", str(tmp_path / name)]
        monkeypatch.setattr("sys.argv", arguments)
        make_digits.main()
        sums.append(capsys.readouterr().out.split()[-1])
    assert sums[0] == sums[1]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as made:
        assert made["packed"].shape == (200, 512) and made["labels"].tolist() == [
            d for d in range(10) for _ in range(20)
        ]
        assert np.bincount(made["labels"][made["evaluation"]]).tolist() == [6] * 10
