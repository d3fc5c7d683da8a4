from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.core.errors import InputError
from workbench.engine.binding.binders import Binder
from workbench.export.io import IOSpec, TensorSpec

IMAGE = TensorSpec("image", "float32", (3, 4))
MASK = TensorSpec("mask", "int64", (None,))


def binder(kind="tensor", *specs, notes=None):
    notes = [] if notes is None else notes
    return Binder(IOSpec(kind, specs or (IMAGE,), (), {"leaf": 0}), notes.append)


def image(n=2, dtype=np.float32):
    return np.arange(n * 12, dtype=dtype).reshape(n, 3, 4)


@pytest.mark.parametrize("given", [image(), torch.from_numpy(image()), torch.from_numpy(image()).requires_grad_()])
def test_arrays_and_tensors_are_taken(given):
    arrays, size, is_torch = binder().bind(given)
    np.testing.assert_array_equal(arrays[0], image())
    assert (size, is_torch) == (2, isinstance(given, torch.Tensor))


def test_dicts_are_taken_by_name_and_tuples_by_place():
    mask = np.ones((2, 9), np.int64)
    by_name, size, _ = binder("dict", IMAGE, MASK).bind({"mask": mask, "image": image()})
    by_place, _, _ = binder("tuple", IMAGE, MASK).bind((image(), mask))
    assert size == 2 and by_name[1] is mask and by_place[1] is mask


def test_memory_maps_and_views_become_plain_contiguous_arrays(tmp_path):
    np.save(tmp_path / "x.npy", image(4))
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    for given in (stored[::2], image(3).transpose(0, 2, 1).copy().transpose(0, 2, 1)):
        arrays, _, _ = binder().bind(given)
        assert type(arrays[0]) is np.ndarray and arrays[0].flags.c_contiguous
        np.testing.assert_array_equal(arrays[0], given)


def test_safe_conversions_are_made_and_said():
    notes = []
    bind = binder("dict", IMAGE, MASK, notes=notes).bind
    arrays, _, _ = bind({"image": image(dtype=np.float64), "mask": np.ones((2, 1), np.int32)})
    assert [a.dtype.name for a in arrays] == ["float32", "int64"]
    assert notes[0] == "Input image was given as float64 and is converted to float32 in every call."
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("kind", "specs", "given", "words"),
    [
        ("tensor", (IMAGE,), image(dtype=np.uint8), r"image: float32 \[batch, 3, 4\] was given as uint8"),
        ("tensor", (IMAGE,), image(dtype=np.float16), "given as float16"),
        ("tensor", (IMAGE,), torch.zeros(2, 3, 4, dtype=torch.bfloat16), "bfloat16"),
        ("tensor", (IMAGE,), np.array([None]), "object"),
        ("tensor", (IMAGE,), image()[0], r"shape \[3, 4\]. The batch dimension is missing: give x\[None\]"),
        ("tensor", (IMAGE,), np.zeros((2, 4, 3), np.float32), r"given with shape \[2, 4, 3\]"),
        ("tensor", (IMAGE,), np.zeros((), np.float32), r"given with shape \[\]"),
        ("tensor", (TensorSpec("x", "float32", ()),), np.zeros((), np.float32), r"give x\[None\]"),
        ("tensor", (IMAGE,), image(0), "at least one sample"),
        ("tensor", (IMAGE,), [1.0, 2.0], "it was given a list"),
        ("tensor", (IMAGE,), None, "it was given None"),
        ("tensor", (IMAGE,), {"image": image()}, "it was given a dict"),
        ("dict", (IMAGE, MASK), {"image": image()}, r"a dict with \['image'\]"),
        ("dict", (IMAGE, MASK), image(), r"takes a dict \{image.*mask.*given a ndarray"),
        ("dict", (IMAGE, MASK), {"image": image(), "mask": 3}, "mask: int64 .* must be a numpy array"),
        ("tuple", (IMAGE, MASK), (image(),), "a tuple of 1"),
        ("tuple", (IMAGE, MASK), (image(), np.ones((3, 1), np.int64)), "image has 2, mask has 3"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(kind, specs, given, words):
    with pytest.raises(InputError, match=words):
        binder(kind, *specs).bind(given)


def test_a_conversion_that_would_overflow_is_refused():
    with pytest.raises(InputError, match=r"beyond 3\.4e\+38, the largest of float32"):
        binder().bind(image(dtype=np.float64) + 1e300)
    assert np.isinf(binder().bind(image(dtype=np.float64) + np.inf)[0][0]).all()
