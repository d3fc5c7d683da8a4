"""Batches of other sizes than an OpenVINO session was compiled for: checked, cached, and freed again."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import EngineError
from workbench.engine.backends.openvino.input_sizes import ANY, OtherSizes


class Compiled:
    """A stand-in for a compiled model."""


def sizes(*, wrong=(), own=4):
    """Return sizes whose compiled models disagree with the reference at ``wrong``, and the list of what is compiled."""
    requests = []

    def compile_agreeing(batch, probes):
        requests.append((batch, probes))
        return None if batch in wrong else Compiled()

    return OtherSizes(own, None, compile_agreeing), requests


class TestOtherSizes:
    def test_one_model_for_any_size_where_it_agrees(self):
        others, requests = sizes()
        assert others.at(7) == others.at(9)
        assert others.at(7)[0] == ANY
        assert requests == [(None, (1, 3))]

    def test_is_probed_at_sizes_that_are_not_its_own(self):
        others, requests = sizes(own=1)
        others.at(7)
        assert requests == [(None, (2, 3))]

    def test_each_size_by_itself_where_an_open_batch_disagrees(self):
        others, requests = sizes(wrong=(None,))
        assert [others.at(size)[0] for size in (7, 9, 7)] == [7, 9, 7]
        assert requests == [(None, (1, 3)), (7, (7,)), (9, (9,))]

    def test_a_size_that_disagrees_is_refused_every_time(self):
        others, _ = sizes(wrong=(None, 7))
        for _ in range(2):
            with pytest.raises(EngineError, match="batch of 7"):
                others.at(7)
        assert others.at(9)[0] == 9

    def test_a_size_that_is_requested_again_stays_and_the_oldest_goes(self):
        others, _ = sizes(wrong=(None,))
        first = others.at(1)[1]
        for size in range(2, 12):
            others.at(size)
            assert others.at(1)[1] is first
        assert others.has(1) and others.has(11) and not others.has(2)


def test_requests_of_sizes_that_are_compiled_no_more_are_freed(images, monkeypatch):
    """A request keeps its compiled model alive: each size ever used would stay in memory."""
    monkeypatch.setattr("workbench.engine.backends.openvino.input_sizes._MOST_SIZES", 2)
    x = images.task.examples(8).numpy()
    with wb.OptimizedInferenceEngine.from_variant(images, backend="openvino", batch_size=8) as engine:
        expected = engine.predict(x).result
        session = engine.session.model  # the compiled models have no other way to be seen
        session._others._separate = True
        references = []
        for size in range(1, 6):
            np.testing.assert_allclose(engine.predict(x[:size]).result, expected[:size], atol=1e-4)
            references.append(weakref.ref(session._others.at(size)[1]))
        gc.collect()
        assert [reference() is not None for reference in references] == [False, False, False, True, True]
