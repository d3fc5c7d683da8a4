"""Charts display themselves in notebooks, with alternative text."""

from __future__ import annotations

from workbench.plots import plot_bars, plot_tradeoff, plot_waterfall
from workbench.plots.drawing.figure import with_alt


def test_a_chart_is_a_png_with_title_and_axes_as_alternative_text():
    data, metadata = plot_bars({"a": 1.0}, unit="KiB", title="Memory $", detail="batch 1")._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    alt = metadata["image/png"]["alt"]
    assert alt == data["text/plain"] == "Memory $; batch 1; x: Amount (KiB) ↓"
    assert metadata["image/png"]["width"] == int(6.4 * 110)


def test_alternative_text_can_be_set_and_is_the_message_of_a_chart_without_data():
    chart = plot_tradeoff([])
    assert "No trials yet" in chart._repr_mimebundle_()[0]["text/plain"]
    assert with_alt(chart, "a text") is chart and chart._repr_mimebundle_()[0]["text/plain"] == "a text"


def test_panels_are_described_by_their_titles(rows):
    alt = plot_waterfall(rows)._repr_mimebundle_()[0]["text/plain"]
    assert alt.startswith("Latency; (ms/batch of 32) ↓ | MACs; ")
