"""The transformers, mixers and recurrent networks of the zoo."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.zoo.build import from_pytorchcv, from_transformers
from benchmarks.zoo.task import Architecture, images, prompts, sentences, series, speech, tokens, waves


def _encodec() -> nn.Module:
    """Return the encoder of EnCodec: strided Conv1d, then an LSTM over time."""
    from transformers.models.encodec.modeling_encodec import EncodecConfig, EncodecEncoder

    return EncodecEncoder(
        EncodecConfig(num_filters=16, hidden_size=32, upsampling_ratios=[4, 2], norm_type="time_group_norm")
    )


def _parakeet() -> nn.Module:
    """Return the prediction network of Parakeet's transducer: an embedding, an LSTM over tokens, a Linear."""
    from transformers.models.parakeet.modeling_parakeet import ParakeetRNNTConfig, ParakeetRNNTDecoder

    return ParakeetRNNTDecoder(ParakeetRNNTConfig(vocab_size=64, decoder_hidden_size=64, num_decoder_layers=2))


def _audio2expression() -> nn.Module:
    """Return Neural Voice Puppetry's Audio2Expression net; pytorchcv leaves the weight of its decoder unset."""
    module = from_pytorchcv("nvpattexp", "NvpAttExp", base_persons=4, blendshapes=20)()
    nn.init.normal_(module.get_parameter("decoder.weight"), std=0.2)
    return module


_LABELS: dict[str, Any] = {"num_labels": 10, "initializer_range": 0.1}
_BLOCKS: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
_HEADS: dict[str, Any] = _BLOCKS | {"num_attention_heads": 4}
_WORDS: dict[str, Any] = {"vocab_size": 64, "max_position_embeddings": 32}

_TRANSFORMERS = (
    Architecture(
        "ViT",
        "transformer",
        "transformers",
        "patches, class token, attention heads",
        from_transformers("ViTForImageClassification", "ViTConfig", image_size=32, patch_size=8, **_HEADS, **_LABELS),
        images(32),
    ),
    Architecture(
        "Swin",
        "transformer",
        "transformers",
        "attention in shifted windows: reshapes with the window's size, a table of relative positions",
        from_transformers(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=32,
            patch_size=4,
            embed_dim=32,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
            **_LABELS,
        ),
        images(32),
    ),
    Architecture(
        "BERT",
        "transformer",
        "transformers",
        "two int64 inputs by keyword (tokens and mask), embeddings, a pooler",
        from_transformers("BertForSequenceClassification", "BertConfig", **_HEADS, **_WORDS, **_LABELS),
        sentences,
    ),
    Architecture(
        "GPT-2",
        "transformer",
        "transformers",
        "causal mask, transformers' own Conv1D in place of Linear, an output layer that shares the embedding",
        from_transformers(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=64,
            n_positions=32,
            n_embd=64,
            n_layer=2,
            n_head=4,
            use_cache=False,
            initializer_range=0.1,
        ),
        prompts,
    ),
    Architecture(
        "Llama",
        "transformer",
        "transformers",
        "causal mask, RMSNorm, rotary positions, grouped keys and values, a gated MLP",
        from_transformers(
            "LlamaForCausalLM",
            "LlamaConfig",
            num_key_value_heads=2,
            use_cache=False,
            initializer_range=0.1,
            **_HEADS,
            **_WORDS,
        ),
        prompts,
    ),
    Architecture(
        "wav2vec 2.0",
        "transformer",
        "transformers",
        "strided Conv1d on the waveform, a grouped convolution with weight norm for positions, a transformer",
        from_transformers(
            "Wav2Vec2ForCTC",
            "Wav2Vec2Config",
            conv_dim=(32, 32, 32),
            conv_stride=(5, 4, 2),
            conv_kernel=(10, 8, 4),
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            num_feat_extract_layers=3,
            vocab_size=32,
            mask_time_prob=0.0,
            layerdrop=0.0,
            initializer_range=0.1,
            **_HEADS,
        ),
        lambda n, generator: waves(1600)(n, generator)[:, 0],
    ),
)

_REST = (
    Architecture(
        "PatchTSMixer",
        "MLP",
        "transformers",
        "an MLP-Mixer over patches of a time series, gated",
        from_transformers(
            "PatchTSMixerForTimeSeriesClassification",
            "PatchTSMixerConfig",
            context_length=64,
            patch_length=8,
            patch_stride=8,
            num_input_channels=3,
            d_model=32,
            num_layers=3,
            num_targets=10,
            init_std=0.1,
        ),
        series(64, 3),
    ),
    Architecture(
        "Audio2Expression",
        "MLP",
        "pytorchcv",
        "reshapes with hard-coded sizes, convolutions over time, a layer whose weight is looked up by an int64 input",
        _audio2expression,
        speech,
    ),
    Architecture(
        "EnCodec encoder",
        "recurrent",
        "transformers",
        "strided Conv1d on the waveform with reflected padding, then an LSTM of two layers over time",
        _encodec,
        waves(256),
    ),
    Architecture(
        "Parakeet decoder",
        "recurrent",
        "transformers",
        "an embedding of int64 tokens, an LSTM of two layers, a Linear",
        _parakeet,
        tokens,
    ),
)

OTHERS = _TRANSFORMERS + _REST
