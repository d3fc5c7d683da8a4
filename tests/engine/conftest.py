from __future__ import annotations

import pytest

BACKENDS = ["torch-eager", "onnxruntime", "openvino"]


@pytest.fixture(scope="session")
def images():
    """Return a variant of a small CNN; its export is made once for all tests."""
    from engine_models import images_variant

    return images_variant()


@pytest.fixture(scope="session")
def words():
    """Return a variant with a dict of inputs and a nested output."""
    from engine_models import words_variant

    return words_variant()


@pytest.fixture(scope="session")
def saved(images, tmp_path_factory):
    """Return the artifact of the small CNN."""
    from workbench.artifact import save_variant

    return save_variant(images, tmp_path_factory.mktemp("engine") / "images")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Return the name of each backend."""
    return request.param


@pytest.fixture(scope="session")
def wide():
    """Return a variant whose outputs are as large as its inputs, and 64 KiB of inputs."""
    from engine_models import wide_variant

    variant = wide_variant()
    return variant, variant.task.examples(64).numpy()


@pytest.fixture
def two_threads():
    """Give torch two threads, also in a process that started with one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
