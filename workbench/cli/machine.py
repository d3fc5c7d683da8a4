"""Commands of this machine: ``workbench doctor`` and ``workbench noise``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from workbench.cli.base import DONE, STOPPED, add_command, say, write


def add_doctor(commands: Any) -> None:
    """Add the command."""
    text = "Show machine, instruction sets, cores and GPU, and each backend with its install command."
    command = add_command(commands, "doctor", text, doctor)
    command.add_argument("--json", action="store_true", help="print JSON")


def doctor(arguments: argparse.Namespace) -> int:
    """Print what this machine can run."""
    from workbench.report.doctor import system_info, system_info_text

    facts = system_info()
    write(json.dumps(facts, indent=2) if arguments.json else system_info_text(facts))
    return DONE


def add_noise(commands: Any) -> None:
    """Add the command."""
    words = "Measure this machine's A/A noise floor and store it for later verdicts."
    command = add_command(commands, "noise", words, noise)
    command.add_argument(
        "--backends", nargs="+", help="backends to time, such as onnxruntime openvino; default: all that run here"
    )
    command.add_argument("--budget-s", type=float, default=60.0, help="seconds for all pairs (default 60)")
    command.add_argument("--json", action="store_true", help="print the figures as JSON")


def noise(arguments: argparse.Namespace) -> int:
    """Print the noise floor."""
    from workbench.measure.comparison.noise import cached_noise, measure_noise
    from workbench.present.terminal import ProgressLog

    log = ProgressLog(sys.stderr)
    try:
        floor = measure_noise(backends=arguments.backends, budget_s=arguments.budget_s, progress=log)
    except KeyboardInterrupt:
        say("Stopped by Ctrl-C. The stored noise floor is unchanged.")
        return STOPPED
    write(json.dumps(dataclasses.asdict(floor), indent=1) if arguments.json else f"{floor}.")
    stored = cached_noise()
    if stored is not None and stored != floor:
        say(f"Verdicts use the stored floor, which was measured on a quieter machine: {stored}.")
    return DONE
