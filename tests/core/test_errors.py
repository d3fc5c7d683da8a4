"""One line out of a runtime's pages."""

from __future__ import annotations

from workbench.core.errors import first_line


def test_the_first_line_that_says_something():
    assert first_line(ValueError("\n  no such layer\nat line 3")) == "no such layer"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 5000))) == 400


def test_openvino_names_its_own_source_first_and_the_cause_below():
    text = (
        "Exception from src/inference/src/cpp/infer_request.cpp:223:\nShape inference of Multiply node failed:\nNo fit."
    )
    assert first_line(RuntimeError(text)) == "Shape inference of Multiply node failed: No fit."
