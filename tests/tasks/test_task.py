import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from workbench.core.errors import TaskError
from workbench.tasks import Split, Task
from workbench.tasks.split import ROLES

RNG = np.random.default_rng(0)
X = RNG.standard_normal((400, 3)).astype(np.float32)
Y = RNG.integers(0, 4, 400)
X2 = RNG.standard_normal((90, 3)).astype(np.float32)
Y2 = RNG.integers(0, 4, 90)


class Net(nn.Module):
    def __init__(self, outputs=4):
        super().__init__()
        self.head = nn.Linear(3, outputs)

    def forward(self, features, scale=1.0):
        return self.head(features) * scale


def build():
    torch.manual_seed(0)
    return Net()


def accuracy(outputs, targets):
    return (outputs.argmax(1) == targets).float().mean()


def make(**changes):
    options = {
        "name": "mine",
        "build": build,
        "train": (X, Y),
        "evaluation": (X2, Y2),
        "metric": accuracy,
        "loss": functional.cross_entropy,
    }
    return Task(**options | changes)


def rows(split):
    return {row.tobytes() for row in split.inputs.numpy()}


def test_splits_are_disjoint_and_complete():
    task = make()
    sizes = [len(task.split(role)) for role in ROLES]
    assert sizes == [270, 90, 40, 90]
    parts = [rows(task.split(role)) for role in ROLES]
    assert len(set.union(*parts)) == sum(sizes)
    assert set.union(*parts[:3]) == {row.tobytes() for row in X}
    assert parts[3] == {row.tobytes() for row in X2}


def test_large_training_sets_lend_2000_and_256():
    x = torch.arange(30_000.0).reshape(-1, 1)
    task = make(train=(x, torch.zeros(30_000)))
    assert [len(task.split(role)) for role in ROLES[:3]] == [27_744, 256, 2000]


def test_splits_are_the_same_every_time():
    first, second = make(), make()
    assert [first.split(r).digest for r in ROLES] == [second.split(r).digest for r in ROLES]


def test_samples_keep_their_targets():
    x = np.arange(100.0)[:, None]
    task = make(train=(x, np.arange(100)))
    for role in ROLES[:3]:
        split = task.split(role)
        assert split.inputs[:, 0].tolist() == split.targets.tolist() == sorted(split.targets.tolist())


def test_given_splits_stay_as_they_are():
    task = make(validation=(X2[:5], Y2[:5]), calibration=X2[5:9])
    assert len(task.train) == 400 and np.array_equal(task.train.inputs, X)
    assert len(task.validation) == 5 and len(task.calibration) == 4
    assert task.calibration.targets is None
    half = make(calibration=X2[:7])
    assert len(half.train) == 360 and len(half.calibration) == 7


def test_data_is_read_only_when_needed():
    class Loud(torch.utils.data.Dataset):
        reads = 0

        def __len__(self):
            return 3

        def __getitem__(self, i):
            Loud.reads += 1
            return X2[i], Y2[i]

    task = make(evaluation=Loud())
    assert len(task.train) == 270
    assert Loud.reads == 0
    assert len(task.evaluation) == len(task.evaluation) == 3
    assert Loud.reads == 5


def test_too_few_training_samples():
    with pytest.raises(TaskError, match="train has 2 samples, too few"):
        len(make(train=(X[:2], Y[:2])).train)


def test_evaluate_equals_a_direct_loop():
    task, model = make(), build()
    with torch.no_grad():
        expected = float((model(torch.from_numpy(X2)).argmax(1).numpy() == Y2).mean())
    assert task.evaluate(model) == pytest.approx(expected)
    for size in (1, 7, 1000):
        assert task.evaluate(lambda x: model(x).detach().numpy(), batch_size=size) == pytest.approx(expected)
    assert task.score(task.outputs(model, "validation"), "validation") == task.evaluate(model, split="validation")
    assert 0 <= task.evaluate(model, split=task.train.take([0, 1])) <= 1


def test_outputs_keep_their_structure():
    class Two(Net):
        def forward(self, features):
            return {"logits": self.head(features), "more": (features, features.sum(1))}

    outputs = make().outputs(Two(), "evaluation", batch_size=20)
    assert outputs["logits"].shape == (90, 4) and outputs["more"][1].shape == (90,)
    assert np.array_equal(outputs["more"][0], X2)


def test_model_is_fresh_float_and_in_eval_mode():
    shared = build().half().train()
    task = make(build=lambda: shared)
    model = task.model()
    assert not model.training and model.head.weight.dtype == torch.float32
    with torch.no_grad():
        model.head.weight.zero_()
    assert task.model().head.weight.abs().sum() > 0
    assert shared.training


def test_examples_come_from_train_or_as_given():
    task = make()
    assert torch.equal(task.examples(3), task.train.inputs[:3])
    many = task.examples(600)
    assert many.shape == (600, 3) and torch.equal(many[270:300], many[:30])
    given = make(example_inputs={"features": np.ones((2, 3), np.float32)})
    assert given.examples(5)["features"].shape == (5, 3)
    given.examples(1)["features"].zero_()
    assert given.examples(1)["features"].sum() == 3
    with pytest.raises(TaskError, match="at least 1"):
        task.examples(0)


def test_parameter_names():
    assert make().parameter_names == ("features",)
    assert make(train=({"b": X, "a": X}, Y)).parameter_names == ("b", "a")
    assert make(train=((X, X), Y)).parameter_names == ("features", "scale")
    with pytest.raises(TaskError, match=r"got 2 parameters \(features, scale\)"):
        _ = make(train=((X, X, X), Y)).parameter_names

    class Any(nn.Module):
        def forward(self, first, *rest):
            return first

    assert make(train=((X, X, X), Y), build=Any).parameter_names == ("first", "rest_0", "rest_1")


def test_fingerprint_follows_data_weights_and_version():
    def other():
        model = build()
        with torch.no_grad():
            model.head.bias[0] += 1e-3
        return model

    changed = X2.copy()
    changed[0, 0] += 1
    base = make().fingerprint
    assert len(base) == 12 and int(base, 16) >= 0
    assert make(name="other name").fingerprint == base
    variants = [
        make(build=other),
        make(version="2"),
        make(evaluation=(changed, Y2)),
        make(train=(X[:-1], Y[:-1])),
        make(evaluation=(X2, Y2[::-1].copy())),
    ]
    assert len({base, *(task.fingerprint for task in variants)}) == 6


def test_a_task_travels_by_value():
    task = make(train=torch.utils.data.DataLoader(list(zip(X, Y, strict=True)), batch_size=50))
    copy = cloudpickle.loads(cloudpickle.dumps(task))
    assert copy.fingerprint == task.fingerprint
    assert [copy.split(r).digest for r in ROLES] == [make().split(r).digest for r in ROLES]
    assert copy.evaluate(copy.model()) == task.evaluate(task.model())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": " "}, "name must be one line"),
        ({"build": build()}, "Write build=lambda: model"),
        ({"build": "model.pt"}, "build must be a function"),
        ({"metric": 0.5}, "metric must be a function"),
        ({"loss": None}, "loss must be a function"),
        ({"augment": 3}, "augment must be a function"),
        ({"evaluation": None}, "evaluation must be given"),
    ],
)
def test_arguments_are_checked_at_once(changes, words):
    with pytest.raises(TaskError, match=words):
        make(**changes)


def test_unknown_split_suggests_a_name():
    with pytest.raises(TaskError, match="Did you mean 'validation'"):
        make().split("validate")


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda o, t: "good", "must return one number, got str"),
        (lambda o, t: o, "must return one number, got Tensor"),
        (lambda o, t: o.logits, "metric failed on the evaluation split with output"),
    ],
)
def test_metric_errors_name_shapes(metric, words):
    task = make(metric=metric)
    with pytest.raises(TaskError, match=words):
        task.evaluate(task.model())


def test_metric_may_give_any_number():
    for value in (1, np.float64(0.5), np.array([0.25]), torch.tensor(0.5), True):
        assert make(metric=lambda o, t, v=value: v).score(torch.zeros(90, 4)) == float(np.squeeze(value))


def test_split_object_is_accepted_and_keeps_its_name():
    given = Split(X2, Y2, name="mine")
    task = make(evaluation=given)
    assert task.evaluation.name == "evaluation" and given.name == "mine"
    assert repr(task) == "Task('mine', version='1')"


def test_a_metric_of_which_less_is_better_is_told_and_turned():
    def error(outputs, targets):
        return float((outputs.argmax(1) != targets).float().mean())

    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    changes = {
        "build": lambda: torch.nn.Identity(),
        "train": (x, x.argmax(1)),
        "evaluation": (x[:100] + 1e-3, x[:100].argmax(1)),
    }
    with pytest.raises(TaskError, match="higher_is_better=False"):
        make(**changes, metric=error).check()
    task = make(**changes, metric=error, higher_is_better=False)
    task.check()
    assert task.evaluate(lambda inputs: inputs) == 0.0
    assert task.evaluate(lambda inputs: -inputs) == -1.0
    assert task.fingerprint != make(**changes, metric=lambda o, t: -error(o, t)).fingerprint
    with pytest.raises(TaskError, match="True or False"):
        make(higher_is_better="no")
