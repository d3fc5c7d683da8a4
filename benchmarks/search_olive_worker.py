"""Olive's own search, run by the Python of Olive's environment: ``python search_olive_worker.py JOB.json``.

Needs olive-ai, onnxruntime, openvino and nncf, and nothing of the workbench. Olive has one order of passes in a
workflow, so the ways that its passes give from an ONNX file to this CPU are workflows of their own (``flows``), which
share the time: what one leaves goes to those after it. The result is written after each, so that one killed later
keeps the others.

What Olive gets, and why:

- the passes' own search spaces (nothing is fixed that Olive would search), and as its documentation shows for a goal on
  accuracy: latency first, accuracy with ``max-degradation``. Its TPE sampler where a pass has options to search; where
  there are only passes to choose from, every one of them ("sequential"): TPE takes such alternatives for one point, and
  looks for another without end (olive-ai 0.13);
- one evaluator for both runtimes: Olive's own for OpenVINO times the first calls too and cannot set threads, which
  would make its choice one of chance;
- OpenVINO in its default precision (bfloat16 where the CPU has it, as Olive loads it), ONNX Runtime with its defaults;
- no OrtSessionParamsTuning: threads are equal for all tools here, and what else it tunes is not kept in a model file;
- a fault of Olive's own mended (``mend``), without which its OpenVINO workflow tries a single point;
- no OnnxFloatToFloat16: ONNX Runtime has no float16 kernels for convolutions on CPUs.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO and NNCF report to their maker else

import numpy as np  # noqa: E402 - after the switches above
from search_olive_flows import config, flows  # noqa: E402

JOB_VARIABLE = "SEARCH_OLIVE_JOB"
CALLS, WARM = 40, 10
SCRIPT = str(Path(__file__).resolve())


@functools.cache
def job() -> dict[str, Any]:
    """Return what is asked: paths, seconds, seed, threads, batch and limit."""
    return json.loads(Path(os.environ[JOB_VARIABLE]).read_text(encoding="utf-8"))


@functools.cache
def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images ``[n, 3, 32, 32]`` and labels ``[n]`` of a split."""
    kept = np.load(job()["data"])
    return kept[f"{split}_images"], kept[f"{split}_labels"]


class Calibration:
    """Calibration images one by one, in the order that the seed gives, as a torch data set."""

    def __init__(self) -> None:
        images, labels = arrays("calibration")
        order = np.random.default_rng(job()["seed"]).permutation(len(images))[: job()["calibration"]]
        self._images, self._labels = images[order], labels[order]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], int]:
        return {job()["input"]: self._images[index]}, int(self._labels[index])


class Unnamed(Calibration):
    """The same without the input's name, as NNCF takes them."""

    def __getitem__(self, index: int) -> Any:
        return self._images[index], int(self._labels[index])


def register() -> None:
    """Tell Olive of the data sets and of what measures a candidate."""
    from olive.data.registry import Registry as Data
    from olive.evaluator.metric_result import MetricResult, flatten_metric_result
    from olive.evaluator.olive_evaluator import OliveEvaluator
    from olive.evaluator.registry import Registry as Evaluators

    Data.register_dataset("search_calibration")(lambda **_: Calibration())
    Data.register_dataset("search_calibration_unnamed")(lambda **_: Unnamed())

    @Evaluators.register("SearchEvaluator")
    class _Evaluator(OliveEvaluator):
        def evaluate(self, model: Any, metrics: Any, device: Any = None, execution_providers: Any = None) -> Any:
            found = dict(zip(("accuracy", "latency"), judge(model), strict=True))
            results = {}
            for metric in metrics:
                (asked,) = metric.sub_types
                known = {"priority": asked.priority, "higher_is_better": asked.higher_is_better}
                results[metric.name] = MetricResult.model_validate({asked.name: {"value": found[metric.name], **known}})
            return flatten_metric_result(results)


def feed(item: Any) -> dict[str, np.ndarray]:
    """Return an item of the calibration images as NNCF wants it for an ONNX file: arrays by the input's name."""
    return {job()["input"]: item[0].numpy()}


def mend() -> None:
    """Let Olive record a model again that came from its cache.

    olive-ai 0.13 sets a field of pydantic's own instead (``model_config``), so that every point of a search fails whose
    first pass was run before.
    """
    from olive.engine.footprint import FootprintNode

    def update(self: Any, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, "model_config_data" if name == "model_config" else name, value)

    FootprintNode.update = update


def runner(model: Any) -> Any:
    """Return what runs a batch through a candidate on its own runtime, on the job's threads."""
    if "OpenVINO" in type(model).__name__:
        import openvino

        read = openvino.Core().read_model(model.model_config["model"])
        read.reshape([job()["batch"], *read.input(0).partial_shape.get_min_shape()[1:]])
        settings = {"INFERENCE_NUM_THREADS": job()["threads"], "PERFORMANCE_HINT": "LATENCY"}
        request = openvino.compile_model(read, "CPU", settings).create_infer_request()
        return lambda x: request.infer({0: x})[0]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job()["threads"]
    session = onnxruntime.InferenceSession(str(model.model_path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def judge(model: Any) -> tuple[float, float]:
    """Return accuracy on the validation images, and the median ms of a call."""
    run, size = runner(model), job()["batch"]
    images, labels = arrays("validation")
    found = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        whole = np.concatenate([part, images[: size - len(part)]]) if len(part) < size else part
        found.append(np.argmax(run(whole), axis=1)[: len(part)])
    times = []
    for _ in range(WARM + CALLS):
        begun = time.perf_counter()
        run(images[:size])
        times.append(1e3 * (time.perf_counter() - begun))
    accuracy = float(np.mean(np.concatenate(found) == labels))
    return accuracy, float(np.median(times[WARM:]))


class Errors(logging.Handler):
    """Keeps what Olive logs of passes that failed: the words of each exception and how often it came."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.counts: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record that tells of an exception."""
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            cause = error.__cause__ or error
            words = " ".join(str(cause).split())[:300]
            what = re.sub(r"search point .* FAILED", "FAILED", re.sub(r"Step \d+ ", "", record.getMessage()))
            text = f"{what.splitlines()[0]} {type(cause).__name__}: {words}"
            self.counts[text] = self.counts.get(text, 0) + 1


def run_flow(name: str, sampler: str, passes: dict[str, Any], folder: Path, seconds: float) -> dict[str, Any]:
    """Run one workflow, and return the best model of it by Olive's own word, and what was tried."""
    from olive.workflows import run

    errors = Errors()
    logger = logging.getLogger("olive")
    logger.addHandler(errors)
    begun = time.monotonic()
    found: dict[str, Any] = {"flow": name, "best": None, "tried": 0, "versions": versions()}
    try:
        output = run(config(job(), SCRIPT, sampler, passes, folder, seconds))
        nodes = list(output.footprint.nodes.values())
        found["tried"] = sum(1 for node in nodes if node.metrics and node.parent_model_id is not None)
        known = output.get_input_model_metrics()
        found["base"] = None if known is None else figures(known)["accuracy"]
        best = output.get_best_candidate() if output.has_output_model() else None
        if best is not None:
            found["best"] = described(output, best)
    except Exception as error:  # noqa: BLE001 - the page tells it, and the other workflows go on
        found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    finally:
        logger.removeHandler(errors)
    took = time.monotonic() - begun
    return found | {"seconds": took, "by_itself": took < seconds, "failures": errors.counts}


def figures(values: dict[str, Any]) -> dict[str, float]:
    """Return accuracy and median latency from what Olive calls them."""
    names = {"accuracy-accuracy_score": "accuracy", "latency-p50": "latency_ms"}
    return {ours: values[theirs]["value"] for theirs, ours in names.items()}


def versions() -> dict[str, str]:
    """Return the versions that take part."""
    return {name: importlib.metadata.version(name) for name in ("olive-ai", "onnxruntime", "openvino", "nncf")}


def described(output: Any, best: Any) -> dict[str, Any]:
    """Return the figures, the file and the passes of a candidate."""
    words = []
    model_id: str | None = best.model_id
    while model_id is not None:
        node = output.footprint.nodes[model_id]
        if node.from_pass:
            options = {
                key: value for key, value in (node.pass_run_config or {}).items() if key in SHOWN and value is not None
            }
            shown = ", ".join(f"{key}={value}" for key, value in options.items())
            known = next((name for name in PASSES if name.lower() == node.from_pass.lower()), node.from_pass)
            words.append(f"{known}({shown})")
        model_id = node.parent_model_id
    path = Path(best.model_path)
    if path.is_dir():
        path = next(iter([*path.glob("*.xml"), *path.glob("*.onnx")]))
    return {**figures(best.metrics["value"]), "path": str(path), "words": " + ".join(reversed(words))}


PASSES = (  # as their documentation spells them: Olive keeps them in small letters
    *("OpenVINOConversion", "OpenVINOQuantization", "OpenVINOQuantizationWithAccuracy"),
    *("OnnxStaticQuantization", "OnnxDynamicQuantization"),
)
SHOWN = (
    *("precision", "activation_type", "per_channel", "reduce_range", "calibrate_method", "quant_format"),
    *("quant_preprocess", "preset"),
)


def main() -> int:
    """Run the workflows one after the other within the job's seconds."""
    os.environ[JOB_VARIABLE] = sys.argv[1]
    register()
    mend()
    begun, results = time.monotonic(), []
    everything = flows(job(), SCRIPT)
    for place, (name, (sampler, passes)) in enumerate(everything.items()):
        left = job()["seconds"] - (time.monotonic() - begun)
        if left < 1 and results:
            results.append({"flow": name, "best": None, "tried": 0, "seconds": 0.0, "by_itself": False, "failures": {}})
        else:
            share = left / (len(everything) - place)
            results.append(run_flow(name, sampler, passes, Path(job()["folder"]) / f"flow-{place}", share))
        whole = {"flows": results, "seconds": time.monotonic() - begun}
        temporary = Path(job()["result"]).with_suffix(".tmp")
        temporary.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        temporary.replace(job()["result"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
