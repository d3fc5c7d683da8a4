import cloudpickle
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from workbench.core.errors import TaskError
from workbench.tasks import Split
from workbench.tasks.trees import leaves

X = np.random.default_rng(0).standard_normal((23, 3)).astype(np.float32)
Y = np.arange(23) % 4


class Dicts(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return {"a": torch.from_numpy(X[i]), "b": int(i), "labels": int(Y[i])}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Random(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.rand(3), i


class Unsized(Dataset):
    def __getitem__(self, i):
        return X[i], Y[i]


PAIRS = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
SAME = {
    "numpy": (X, Y),
    "float64 and int32": (X.astype(np.float64), Y.astype(np.int32)),
    "big endian": (X.astype(">f4"), Y.astype(">i8")),
    "tensors": (torch.from_numpy(X), torch.from_numpy(Y)),
    "samples": [(x, int(y)) for x, y in zip(X, Y, strict=True)],
    "dataset": PAIRS,
    "stream": Stream(),
    "loader": DataLoader(PAIRS, batch_size=5),
    "shuffling loader": DataLoader(PAIRS, batch_size=5, shuffle=True, drop_last=True),
    "unbatched loader": DataLoader(PAIRS, batch_size=1),
    "split": Split(X, Y),
}


@pytest.mark.parametrize("kind", SAME)
def test_every_source_gives_the_same_samples(kind):
    split = Split.of(SAME[kind])
    assert split.inputs.dtype == torch.float32 and split.targets.dtype == torch.int64
    assert np.array_equal(split.inputs, X) and np.array_equal(split.targets, Y)
    assert split.digest == Split(X, Y).digest


@pytest.mark.parametrize(
    "source",
    [
        Dicts(),
        DataLoader(Dicts(), batch_size=4, shuffle=True),
        [Dicts()[i] for i in range(23)],
        {"a": X, "b": np.arange(23), "labels": Y},
        ({"a": X, "b": np.arange(23)}, Y),
    ],
)
def test_dicts_become_keywords_and_target(source):
    split = Split.of(source)
    assert list(split.inputs) == ["a", "b"]
    assert np.array_equal(split.inputs["a"], X) and split.inputs["b"].tolist() == list(range(23))
    assert np.array_equal(split.targets, Y)


@pytest.mark.parametrize(
    "source",
    [
        ((X, X + 1), Y),
        TensorDataset(torch.from_numpy(X), torch.from_numpy(X + 1), torch.from_numpy(Y)),
        [((x, x + 1), y) for x, y in zip(X, Y, strict=True)],
        DataLoader([((x, x + 1), y) for x, y in zip(X, Y, strict=True)], batch_size=7),
    ],
)
def test_several_inputs_become_a_tuple(source):
    split = Split.of(source)
    assert isinstance(split.inputs, tuple)
    assert np.array_equal(split.inputs[1], X + 1) and np.array_equal(split.targets, Y)


def test_own_collate_function_pads():
    words = [(torch.arange(n), n) for n in (2, 3, 1)]

    def pad(samples):
        ids = torch.zeros(len(samples), 4, dtype=torch.int64)
        for row, (word, _) in zip(ids, samples, strict=True):
            row[: len(word)] = word
        return {"ids": ids, "targets": torch.tensor([n for _, n in samples])}

    split = Split.of(DataLoader(words, batch_size=2, collate_fn=pad))
    assert split.inputs["ids"].tolist() == [[0, 1, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]]
    assert split.targets.tolist() == [2, 3, 1]


def test_inputs_alone_have_no_targets():
    assert Split.of(X).targets is None
    assert Split.of(list(X)).inputs.shape == (23, 3)
    assert [y for _, y in Split.of(X).batches(10)] == [None] * 3


def test_views_copy_nothing_until_asked():
    whole = Split(X, Y)
    view = whole.take([5, 1, 9]).take([2, 0])
    assert view._data[0] is whole.inputs
    assert [y.tolist() for _, y in view.batches(1)] == [[1], [1]]
    assert np.array_equal(view.inputs, X[[9, 5]]) and len(view) == 2
    assert view.digest == Split(X[[9, 5]], Y[[9, 5]]).digest


def test_a_view_travels_alone():
    view = Split(np.zeros((10_000, 10)), np.zeros(10_000)).take([0, 1])
    sent = cloudpickle.dumps(view)
    assert len(sent) < 5000
    assert cloudpickle.loads(sent).digest == view.digest


def test_batches_cover_everything_once():
    sizes = [len(x) for x, _ in Split(X, Y).batches(10)]
    assert sizes == [10, 10, 3]
    with pytest.raises(TaskError, match="at least 1"):
        next(Split(X, Y).batches(0))


def test_digest_changes_with_any_part():
    def digest(x=X, y=Y):
        return Split(x, y).digest

    other = X.copy()
    other[22, 2] += 1e-6
    found = [
        digest(),
        digest(x=other),
        digest(y=Y[::-1].copy()),
        digest(y=None),
        digest(x=X.reshape(23, 1, 3)),
        digest(x=(X,)),
        digest(x={"a": X}),
        digest(x=X.astype(np.float16)),
        digest(x=X[::-1].copy()),
    ]
    assert len(set(found)) == len(found)
    assert digest(x=X.copy()) == digest()


def test_digest_does_not_depend_on_chunks(monkeypatch):
    before = Split(X, Y).digest
    monkeypatch.setattr("workbench.tasks.split._CHUNK", 4)
    assert Split(X, Y).digest == before


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ((X, Y[:-1]), "23 inputs and 22 targets"),
        ((X, X, Y), r"write \(\(first, second\), targets\)"),
        ((X[:0], Y[:0]), "at least one sample"),
        ([], "at least one sample"),
        ("train.csv", "cannot read data from str"),
        ((np.array(["a", "b"]), Y[:2]), "dtype"),
        (("ab", Y[:2]), "got str"),
        ((np.float32(3), Y), "got a scalar"),
        (({"a": X, "b": X[:3]}, Y), "a has 23, b has 3"),
        ([(X[0], 1), (X[0, :2], 1)], "do not stack"),
        ([(X[0], None), (X[0], 1)], "1 of 2 samples have no target"),
        ([{"a": X[0], "label": 1, "target": 1}], "must have one target"),
        (DataLoader([(torch.ones(n), 0) for n in (1, 2)], batch_size=1), "batches of the DataLoader"),
        (Random(), "same values"),
        (DataLoader(Random()), "same values"),
        (Unsized(), "must have __len__"),
    ],
)
def test_errors_say_what_is_wrong(source, words):
    with pytest.raises(TaskError, match=words) as caught:
        Split.of(source, name="train")
    assert str(caught.value).startswith("train")


def test_take_refuses_what_is_not_there():
    with pytest.raises(TaskError, match="from 0 to 22"):
        Split(X, Y).take([23])


def test_repr_names_shapes():
    assert repr(Split({"ids": X}, Y, name="train")) == "Split(train: 23 samples, ids [3])"
    assert len(leaves(Split(X).inputs)) == 1
