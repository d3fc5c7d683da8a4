"""A real JupyterLab on a loopback port and the system's Chromium, both with folders of their own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 60_000
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


class Lab:
    """A JupyterLab server over one folder."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.token = secrets.token_hex(16)
        self._runtime = home / "runtime"
        settings = home / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        quiet = {"fetchNews": "false", "checkForUpdates": False}
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
        own = {"JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_CONFIG_DIR": "config", "IPYTHONDIR": "ipython"}
        own |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
        command = [sys.executable, "-m", "jupyterlab", "--ServerApp.open_browser=False", "--ServerApp.ip=127.0.0.1"]
        command += ["--ServerApp.port=0", f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={root}"]
        command += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--allow-root")
        self.log = home / "lab.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **{name: str(home / folder) for name, folder in own.items()}},
                start_new_session=True,
            )
        self.url = self._wait_until_up()

    def _wait_until_up(self, seconds: float = 60.0) -> str:
        end = time.monotonic() + seconds
        info = self._runtime / f"jpserver-{self._process.pid}.json"
        while time.monotonic() < end and self._process.poll() is None:
            if info.exists() and info.read_text().strip().endswith("}"):
                url = str(json.loads(info.read_text())["url"])
                with contextlib.suppress(OSError):  # the file is there a little before the server listens
                    urllib.request.urlopen(f"{url}api?token={self.token}", timeout=5).close()
                    return url
            time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start:\n{self.log.read_text()[-2000:]}")

    def address(self, notebook: str) -> str:
        """Return the page that shows one notebook, without the side bars."""
        return f"{self.url}doc/tree/{notebook}?token={self.token}&reset"

    def ask(self, code: str, names: list[str]) -> dict[str, str]:
        """Run ``code`` in the notebook's kernel and return the ``repr`` of the named expressions."""
        from jupyter_client import BlockingKernelClient

        request = urllib.request.Request(f"{self.url}api/sessions?token={self.token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            kernel = json.load(answer)[0]["kernel"]["id"]
        client = BlockingKernelClient()
        client.load_connection_file(str(self._runtime / f"kernel-{kernel}.json"))
        client.start_channels()
        try:
            reply = client.execute_interactive(
                code,
                store_history=False,
                user_expressions={n: n for n in names},
                timeout=60,
                output_hook=lambda _: None,
            )
        finally:
            client.stop_channels()
        content = reply["content"]
        if content["status"] != "ok":
            raise RuntimeError("\n".join(content["traceback"]))
        return {n: e["data"]["text/plain"] for n, e in content["user_expressions"].items()}

    def stop(self) -> None:
        """End the server and its kernels."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the system's Chromium, or skip with the command that would get it."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("No Chromium on this machine. Get it with: apt-get install chromium")
    return found


@pytest.fixture
def page(chromium: str, tmp_path: Path) -> Iterator[Any]:
    """Return a page of a new browser with an empty profile, 1280 pixels wide, that reaches loopback only."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=chromium,
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 900},
        )
        context.set_default_timeout(WAIT_MS)
        yield context.pages[0] if context.pages else context.new_page()
        context.close()


@pytest.fixture
def start_lab(tmp_path: Path) -> Iterator[Callable[[], Lab]]:
    """Return a function that starts JupyterLab over ``tmp_path / "notebooks"``; it is stopped at the end."""
    root, home = tmp_path / "notebooks", tmp_path / "home"
    root.mkdir()
    home.mkdir()
    labs: list[Lab] = []

    def start() -> Lab:
        labs.append(Lab(root, home))
        return labs[-1]

    yield start
    for lab in labs:
        lab.stop()


@pytest.fixture
def write_notebook(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a notebook of code cells beside the others."""

    def write(name: str, *cells: str) -> Path:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=KERNEL)
        path = tmp_path / "notebooks" / name
        nbformat.write(notebook, path)
        return path

    return write


@pytest.fixture
def shoot(tmp_path: Path) -> Callable[[Any, str], None]:
    """Return a function that saves a picture of an element: in WORKBENCH_PICTURES or the test's folder."""
    folder = Path(os.environ.get("WORKBENCH_PICTURES", tmp_path))

    def take(element: Any, name: str) -> None:
        element.screenshot(path=str(folder / f"{name}.png"))

    return take
