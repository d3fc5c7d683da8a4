import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from workbench.core.errors import TaskError
from workbench.tasks import Task

RNG = np.random.default_rng(0)
X, X2 = (RNG.standard_normal((n, 3)).astype(np.float32) for n in (400, 90))
Y, Y2 = (RNG.integers(0, 4, n) for n in (400, 90))


class Net(nn.Module):
    def __init__(self, outputs=4):
        super().__init__()
        self.head = nn.Linear(3, outputs)

    def forward(self, features):
        return self.head(features)


def build():
    torch.manual_seed(0)
    return Net()


def make(**changes):
    options = {
        "name": "mine",
        "build": build,
        "train": (X, Y),
        "evaluation": (X2, Y2),
        "metric": lambda outputs, targets: (outputs.argmax(1) == targets).double().mean(),
        "loss": functional.cross_entropy,
    }
    return Task(**options | changes)


BAD = X2.copy()
BAD[7, 1] = np.nan


def broken_weights():
    model = build()
    with torch.no_grad():
        model.head.bias[2] = float("nan")
    return model


def fails():
    raise FileNotFoundError("weights.pt")


class Fixed(Net):
    def forward(self, features):
        return self.head(features.reshape(1, 2, 3)).reshape(2, 4) if len(features) == 2 else self.head(features[:5])


class WrongShape(Net):
    def forward(self, features):
        return self.head(features.reshape(4, -1))


class Mean(Net):
    def forward(self, features):
        return self.head(features).mean(0)


class Mixed(Net):
    def forward(self, features):
        return self.head(features - features.mean(0, keepdim=True))


class Layers(Net):
    """Has as many layers as the samples of the probe."""

    def forward(self, features):
        outputs = self.head(features)
        return outputs, torch.stack([outputs, -outputs])


class Squeezed(Net):
    def forward(self, features):
        return self.head(features).sum(1, keepdim=True).squeeze()


class SometimesMore(Net):
    def forward(self, features):
        outputs = {"logits": self.head(features)}
        return outputs if len(features) == 1 else {**outputs, "pairs": features}


class AfterFirst(Net):
    def forward(self, features):
        return self.head(features + 0.1 * features[:1]) * 1e-3


class InDouble(Net):
    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, features):
        return self.head(features.double())


class Counts(Net):
    calls = 0

    def forward(self, features):
        self.calls += 1
        return self.head(features) + self.calls


class NoTensor(Net):
    def forward(self, features):
        return {"logits": self.head(features), "note": "hello"}


class Nothing(Net):
    def forward(self, features):
        return None


class Exploding(Net):
    def forward(self, features):
        return self.head(features) / 0


def test_a_good_task_passes_once():
    calls = []

    def counted():
        calls.append(1)
        return build()

    task = make(build=counted)
    assert task.check() == ()
    before = len(calls)
    assert task.check() == () and len(calls) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluation": (X2, Y2[:-1])}, "got 90 inputs and 89 targets"),
        ({"train": (X[:0], Y[:0])}, "train must hold at least one sample"),
        ({"evaluation": (BAD, Y2)}, "evaluation inputs must be finite, got NaN or infinity first in sample 7 of 90"),
        ({"evaluation": (X2, Y2 + np.inf)}, "evaluation targets must be finite"),
        (
            {"evaluation": (X2[:, :2], Y2)},
            r"evaluation must have the inputs .*\[3\], got inputs: float32 \[2\]",
        ),
        ({"evaluation": ((X2, X2), Y2)}, "evaluation must have .*got inputs.0"),
        ({"example_inputs": torch.zeros(1, 5)}, "example_inputs must have the inputs"),
        ({"build": fails}, r"build\(\) failed: FileNotFoundError: weights.pt"),
        ({"build": dict}, "must return a torch.nn.Module, got dict"),
        ({"build": Net}, "the same weights each time"),
        ({"build": broken_weights}, "1 of 4 NaN or infinite values in head.bias"),
        ({"build": lambda: torch.manual_seed(0) and WrongShape()}, r"failed on a batch of 2 \(features; per sample"),
        ({"build": lambda: torch.manual_seed(0) and Mean()}, r"shape \[4\] for 2 samples"),
        (
            {"build": lambda: torch.manual_seed(0) and Layers()},
            r"output.1 must be the batch, got shape \[2, 2, 4\].*\[2, 1, 4\] for one",
        ),
        ({"build": lambda: torch.manual_seed(0) and Mixed()}, "depends on the other samples"),
        (
            {"build": lambda: torch.manual_seed(0) and Squeezed()},
            r"shape \[2\] for 2 samples and \[\] for one",
        ),
        ({"build": lambda: torch.manual_seed(0) and SometimesMore()}, "output.pairs .* none for one"),
        ({"build": lambda: torch.manual_seed(0) and AfterFirst()}, "depends on the other samples"),
        ({"build": lambda: torch.manual_seed(0) and InDouble()}, "do not convert to float64"),
        ({"build": lambda: torch.manual_seed(0) and Counts()}, "must be the same for the same inputs"),
        ({"build": lambda: torch.manual_seed(0) and NoTensor()}, "got str for output.note"),
        ({"build": lambda: torch.manual_seed(0) and Nothing()}, "must return tensors, got none"),
        ({"build": lambda: torch.manual_seed(0) and Exploding()}, "output must be finite"),
        ({"train": (X, Y + 1)}, r"the loss failed with output \[2, 4\] and targets \[1, 4\].*out of bounds"),
        ({"train": (X, np.where(Y == 0, -1, Y))}, "loss failed.*out of bounds"),
        ({"loss": lambda o, t: functional.cross_entropy(o, t, reduction="none")}, r"got a tensor \[2\]"),
        ({"loss": lambda o, t: 0.5}, "must return a scalar tensor, got float"),
        ({"loss": lambda o, t: o.sum() * float("inf")}, "the loss must be finite, got -?inf"),
        ({"loss": lambda o, t: torch.tensor(1.0)}, "must have a gradient"),
        ({"metric": lambda o, t: float("nan")}, "the metric must be finite, got nan on .* evaluation samples"),
        ({"metric": lambda o, t: None}, "must return one number, got NoneType"),
        ({"evaluation": (X2, None)}, "the metric failed"),
        ({"augment": lambda x, generator: x[:1]}, "augment must keep shapes"),
        ({"augment": lambda x: x}, r"augment\(inputs, generator\) failed"),
        ({"evaluation": (X, Y)}, "400 of 400 evaluation samples are also among the training samples"),
        ({"validation": (X[:50], Y[:50])}, r"\d+ of 50 validation samples"),
    ],
)
def test_check_says_what_is_wrong(changes, words):
    with pytest.raises(TaskError, match=words):
        make(**changes).check()


def test_a_few_repeated_samples_are_only_remarked():
    x = np.concatenate([np.random.default_rng(1).standard_normal((199, 3)), X[:1]]).astype(np.float32)
    (note,) = make(evaluation=(x, np.zeros(200, np.int64))).check()
    assert note.startswith("1 of 200 evaluation samples")


def test_data_of_few_values_may_repeat():
    rng = np.random.default_rng(0)
    make(train=(rng.integers(0, 2, (400, 3)) * 1.0, Y), evaluation=(rng.integers(0, 2, (90, 3)) * 1.0, Y2)).check()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, ids, mask=None):
        x = self.embed(ids)
        weight = torch.ones_like(ids, dtype=x.dtype) if mask is None else mask.to(x.dtype)
        return {"logits": self.head((x * weight[..., None]).sum(1) / weight.sum(1, keepdim=True))}


@pytest.mark.parametrize("style", ["tensor", "tuple", "dict"])
def test_token_inputs_and_dict_outputs(style):
    rng = np.random.default_rng(0)
    ids = {n: rng.integers(0, 50, (n, 12)) for n in (200, 60)}
    inputs = {
        n: {"tensor": i, "tuple": (i, np.ones_like(i)), "dict": {"ids": i, "mask": np.ones_like(i)}}[style]
        for n, i in ids.items()
    }
    task = make(
        build=Tokens,
        train=(inputs[200], ids[200][:, 0] % 2),
        evaluation=(inputs[60], ids[60][:, 0] % 2),
        metric=lambda out, y: (out["logits"].argmax(1) == y).double().mean(),
        loss=lambda out, y: functional.cross_entropy(out["logits"], y),
    )
    assert task.check() == ()
    assert task.parameter_names == {"tensor": ("ids",)}.get(style, ("ids", "mask"))
    assert len(task.fingerprint) == 12


def test_regression_with_float_targets():
    task = make(
        train=(X, X.sum(1, keepdims=True).astype(np.float64)),
        evaluation=(X2, X2.sum(1, keepdims=True).astype(np.float64)),
        build=lambda: torch.manual_seed(0) and Net(1),
        metric=lambda out, y: -functional.mse_loss(out, y),
        loss=functional.mse_loss,
    )
    assert task.check() == ()


def test_a_slow_build_is_remarked(monkeypatch):
    monkeypatch.setattr("workbench.tasks.check._SLOW_S", 0.0)
    assert any("load them in build()" in note for note in make().check())
