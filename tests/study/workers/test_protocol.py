"""Frames and arrays survive the way to a child and back."""

import io

import numpy as np
import pytest

from workbench.study.workers.protocol import load_arrays, read_frame, save_arrays, write_frame


def test_frames_come_back_whole_and_the_end_is_none():
    stream = io.BytesIO()
    write_frame(stream, {"command": "open", "words": "ä\n"}, b"\x00\x01")
    write_frame(stream, {"command": "warm"})
    stream.seek(0)
    assert read_frame(stream) == ({"command": "open", "words": "ä\n"}, b"\x00\x01")
    assert read_frame(stream) == ({"command": "warm"}, b"")
    assert read_frame(stream) is None


def test_a_frame_cut_short_counts_as_the_end():
    stream = io.BytesIO()
    write_frame(stream, {"command": "open"}, b"12345")
    assert read_frame(io.BytesIO(stream.getvalue()[:-1])) is None


@pytest.mark.parametrize(
    "tree",
    [
        np.arange(6.0).reshape(2, 3),
        (np.zeros((2, 1)), np.ones(2, dtype=np.int64)),
        {"ids": np.arange(4), "deep": [np.ones((4, 2)), None]},
    ],
)
def test_nested_arrays_keep_structure_dtype_and_values(tmp_path, tree):
    back = load_arrays(save_arrays(tree, tmp_path / "x"))
    assert type(back) is type(tree) or isinstance(back, np.ndarray)
    np.testing.assert_equal(_plain(back), _plain(tree))


def _plain(tree):
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items()}
    if isinstance(tree, tuple | list):
        return [_plain(v) for v in tree]
    return tree
