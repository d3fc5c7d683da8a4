"""A report opened in Chromium: it shows, it is quiet, and it asks nothing of the network."""

from __future__ import annotations

from pathlib import Path

import pytest
from paths import SUPPORT

from workbench.report import run_report

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SHORT = SUPPORT / "short.py"
SMALL = {"budget_s": 240, "batch_sizes": [4], "backends": ["onnxruntime"], "threads": 1}


@pytest.mark.slow
def test_a_report_shows_and_asks_nothing_of_the_network(page, tmp_path: Path, shoot) -> None:
    result = run_report(f"{SHORT}:short", output=tmp_path / "report", parameters=SMALL, progress=lambda _: None)
    assert result.ok, result.reason
    address = result.html.as_uri()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address, wait_until="networkidle")
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    assert complaints == []
    pictures = page.locator("main img")
    assert pictures.count() >= 4
    assert pictures.evaluate_all("images => images.every(i => i.complete && i.naturalWidth > 200 && i.alt)")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.set_viewport_size({"width": 1280, "height": page.evaluate("document.documentElement.scrollHeight")})
    shoot(page, "report")
