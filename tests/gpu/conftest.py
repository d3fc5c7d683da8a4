"""Every test in this folder runs on a real CUDA device, and is skipped where torch sees none."""

from __future__ import annotations

import fcntl
import os

import pytest
import torch

REASON = "needs a CUDA device, and torch sees none"


def pytest_collection_modifyitems(items):
    """Mark the tests of this folder, and skip them where they cannot run."""
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory):
    """Run one test at a time: what the whole device holds is measured."""
    folder = tmp_path_factory.getbasetemp()
    with open((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "gpu.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def _tidy():
    """Give back what the test before left in torch's cache, so that limits on memory mean what they say."""
    yield
    if torch.cuda.is_available():
        torch.compiler.reset()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def variants():
    """Return variants of several kinds by name."""
    from engine_models import Encoder, Pair, images_variant, make_variant, words_variant

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 6, generator=generator)
    return {
        "images": images_variant(),
        "words": words_variant(),
        "encoder": make_variant(Encoder, torch.randn(20, 5, 16, generator=generator)),
        "pair": make_variant(Pair, (rows, rows.flip(0))),
    }
