"""The row of a trial: its columns, their meaning and their checks.

Names end in units. A column that could not be measured is None, and ``notes[column]`` holds the reason.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any, TypedDict

from workbench.core.checks import given
from workbench.core.errors import StudyError
from workbench.core.untrusted import MOST_NAME, escape_control

STATES = ("waiting", "running", "complete", "pruned", "failed", "cancelled")


class TrialRow(TypedDict):
    """One trial: task x recipe x backend x batch size, as :meth:`Study.rows` returns it.

    Identity: ``shape`` holds the sizes of open dimensions, such as ``"sequence=64"``, or is empty. ``engine_json``
    holds the engine's options that are not defaults. ``fingerprint`` identifies machine and libraries, ``machine``
    describes it; rows of two fingerprints are never compared. ``reference`` is the label of a row that is shown and
    never ranked, such as ``"torch.compile"``. ``fidelity`` is ``"full"``, or ``"survey"`` for a row that is never
    recommended.

    Quality: ``quality_drop`` is the baseline's quality minus this one, in the metric's units, on the timed engine.
    ``agreement`` is the share of evaluation samples with the baseline's largest output, None without classes.
    ``validation_drop`` is the drop on the validation split, which a search uses. ``candidates`` is the number of
    (recipe, engine) pairs of the study that were evaluated on the evaluation split.

    Latency: ``latency_ms_rel`` is the baseline-normalized latency (:mod:`workbench.study.results.relative_latency`), by
    which rows are ranked; ``latency_ms_p50`` was timed. ``speedup`` is the latency of the baseline, the row
    ``baseline_key``, over this one, timed interleaved. ``noise_floor`` is the relative difference that counts as noise
    in ``verdict``. ``final_rank`` is the place of a finalist in head-to-head timing. ``load_ms``, ``compile_ms`` and
    ``first_call_ms`` add up to the cold start. ``conditions`` describes load, clock and temperature of the machine,
    ``estimator`` the estimator of latency, ``allocator`` the memory allocator of the process. ``samples`` is the file
    of the raw ms per call in the study's folder ``samples``.

    Resources: ``peak_rss_mib`` and ``peak_pss_mib`` are of the trial's process, ``gpu_memory_mib`` on a GPU,
    ``allocator_peak_mib`` of torch's allocator; ``energy_mj_per_sample`` is above the machine at rest.

    ``steps`` holds one dict per StepReport. ``error`` holds why a trial failed or was pruned. ``notes`` maps columns to
    the reason why it is None or needs a comment.
    """

    task: str
    recipe: str
    recipe_id: str
    technique: str
    backend: str
    batch_size: int
    shape: str
    threads: int
    state: str
    recommended: bool
    reference: str | None
    fidelity: str
    quality: float | None
    quality_drop: float | None
    quality_drop_low: float | None
    quality_drop_high: float | None
    agreement: float | None
    latency_ms_rel: float | None
    latency_ms_rel_low: float | None
    latency_ms_rel_high: float | None
    latency_ms_p50: float | None
    latency_ms_iqr: float | None
    latency_ms_low: float | None
    latency_ms_high: float | None
    latency_ms_p90: float | None
    latency_ms_p99: float | None
    throughput_per_s: float | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    verdict: str | None
    final_rank: int | None
    noise_floor: float | None
    conditions: str | None
    estimator: str | None
    allocator: str | None
    page_faults_per_call: float | None
    context_switches_per_call: float | None
    peak_rss_mib: float | None
    peak_pss_mib: float | None
    gpu_memory_mib: float | None
    allocator_peak_mib: float | None
    energy_mj_per_sample: float | None
    size_mib: float | None
    params: int | None
    macs: int | None
    max_abs_diff: float | None
    load_ms: float | None
    compile_ms: float | None
    first_call_ms: float | None
    prepare_s: float | None
    candidates: int | None
    validation_drop: float | None
    steps: list[dict[str, Any]]
    recipe_json: str
    engine_json: str
    trial_key: str
    artifact_key: str
    task_fingerprint: str
    fingerprint: str
    machine: str
    baseline: bool
    baseline_key: str | None
    samples: str | None
    notes: dict[str, str]
    error: str | None


COLUMNS: tuple[str, ...] = tuple(TrialRow.__annotations__)
"""All columns, in the order of tables and files."""

NUMERIC = tuple(name for name, kind in TrialRow.__annotations__.items() if "int" in str(kind) or "float" in str(kind))
"""The columns that hold numbers, and so can be plotted or minimized."""

_NAMES = ("task", "task_fingerprint", "recipe", "recipe_id", "backend", "fingerprint", "shape", "technique", "state",
          "fidelity", "machine", "artifact_key", "trial_key", "baseline_key", "verdict", "reference")  # fmt: skip
"""The columns that hold one line of text."""
_FILES = ("artifact_key", "trial_key", "baseline_key", "samples")
"""The columns that name files of the study."""
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
REQUIRED = ("task_fingerprint", "recipe_id", "recipe", "recipe_json", "backend", "fingerprint", "batch_size",
            "threads", "trial_key", "state", "shape", "engine_json", "steps", "notes")  # fmt: skip
"""The columns that are never None."""
_LONGEST_NAME, _LONGEST_JSON = 5 * MOST_NAME, 2**20

OPTIONAL = ("error", "reference", "final_rank")
"""The columns in which None is a value of its own, so that it needs no note."""


def new_row(**columns: Any) -> TrialRow:
    """Return a waiting row with the given columns; the others are None.

    Examples
    --------
    >>> row = new_row(task="digits", recipe="float", batch_size=32)
    >>> row["state"], row["quality"], row["notes"]
    ('waiting', None, {})
    """
    texts = {"state": "waiting", "shape": "", "engine_json": "{}", "fidelity": "full"}
    others = {"recommended": False, "baseline": False, "steps": [], "notes": {}}
    return {**dict.fromkeys(COLUMNS), **texts, **others, **columns}  # type: ignore[typeddict-item]


def engine_words(backend: str, options: Mapping[str, Any]) -> str:
    """Return a backend with the engine's options in words.

    Examples
    --------
    >>> engine_words("openvino", {"precision": "bfloat16", "streams": 2})
    'openvino (precision=bfloat16, streams=2)'
    """
    return f"{backend} ({', '.join(f'{name}={value}' for name, value in options.items())})" if options else backend


def row_engine(row: Mapping[str, Any]) -> str:
    """Return the backend of a row with its engine's options in words."""
    return engine_words(row["backend"], json.loads(row["engine_json"]))


def row_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the :class:`InferenceConfig` that a row was measured with.

    Examples
    --------
    >>> row_options({"backend": "openvino", "batch_size": 8, "threads": 2, "engine_json": '{"streams":2}'})
    {'backend': 'openvino', 'batch_size': 8, 'threads': 2, 'streams': 2}
    """
    threads = {} if row.get("threads") is None else {"threads": row["threads"]}
    return {"backend": row["backend"], "batch_size": row["batch_size"], **threads, **json.loads(row["engine_json"])}


def is_ranked(row: Mapping[str, Any]) -> bool:
    """Return whether a row may be ranked and recommended: no reference, and measured at full fidelity."""
    return row.get("reference") is None and row.get("fidelity") != "survey"


def judged_on(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what quality depends on: recipe, backend and the engine's options; not the batch size."""
    return row["recipe_id"], row["backend"], row["engine_json"]


def update_row(row: Mapping[str, Any], **changes: Any) -> TrialRow:
    """Return a copy of ``row`` with changes; given notes are added to those that are there."""
    notes = {**row["notes"], **changes.pop("notes", {})}
    return {**row, **changes, "notes": notes}  # type: ignore[typeddict-item]


def explained(row: Mapping[str, Any]) -> TrialRow:
    """Return a finished row with a note for each column that is None without one; see :data:`OPTIONAL`."""
    missing = [name for name in COLUMNS if row[name] is None and name not in OPTIONAL and name not in row["notes"]]
    computed = ("candidates", "latency_ms_rel", "latency_ms_rel_low", "latency_ms_rel_high")  # when rows are read
    return update_row(row, notes={name: "It was not recorded." for name in missing if name not in computed})


def checked_row(row: object, where: str) -> TrialRow:
    """Return a row from a file or a database, with escapes for control characters in free text.

    StudyError is raised if a column is missing or has a wrong value.
    """
    if not isinstance(row, Mapping):
        raise StudyError(f"{where} is not a row of a study, but {given(row)}.")
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise StudyError(f"{where} is not a row of a study: it lacks the column {missing[0]!r}.")
    bad = [name for name in COLUMNS if not (name not in REQUIRED if row[name] is None else _fits(name, row[name]))]
    if bad:
        raise StudyError(f"{where} is not a row of a study: {bad[0]} is {given(row[bad[0]])}.")
    checked = {name: escape_control(row[name]) if isinstance(row[name], str) else row[name] for name in COLUMNS}
    checked["notes"] = {escape_control(name): escape_control(words) for name, words in row["notes"].items()}
    return checked  # type: ignore[return-value]


def _fits(name: str, value: Any) -> bool:
    """Return whether a value that is not None may stand in a column."""
    if name in _FILES and not (isinstance(value, str) and _FILE.fullmatch(value) and len(value) <= MOST_NAME):
        return False
    if name == "state":
        return value in STATES
    if name in _NAMES:
        return isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_NAME
    if name in ("recommended", "baseline"):
        return isinstance(value, bool)
    if name == "steps":
        return isinstance(value, list) and all(isinstance(step, Mapping) for step in value)
    if name == "notes":
        return isinstance(value, Mapping) and all(isinstance(part, str) for pair in value.items() for part in pair)
    if name in NUMERIC:
        whole = "float" not in str(TrialRow.__annotations__[name])
        count = name in ("batch_size", "threads")
        return _is_number(value, int if whole else int | float) and not (count and value < 1)
    if name in ("engine_json", "recipe_json"):
        return isinstance(value, str) and len(value) <= _LONGEST_JSON and _has_names(value)
    return isinstance(value, str)


def _has_names(text: str) -> bool:
    """Return whether JSON is an object whose keys are names of options."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and all(key.isidentifier() and key.isascii() for key in values)


def _is_number(value: Any, kind: Any) -> bool:
    # math.isfinite refuses integers that no float can hold
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
