"""``workbench noise``: measure how far two loads of one model are apart on this machine, and keep it for verdicts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from workbench.cli.base import DONE, STOPPED, add_command, say, write


def add_noise(commands: Any) -> None:
    """Add the command."""
    words = "Measure this machine's noise floor (A-A), and keep it for every verdict to come."
    command = add_command(commands, "noise", words, noise)
    command.add_argument("--backends", nargs="+", help="such as onnxruntime openvino; default: those that run here")
    command.add_argument("--budget-s", type=float, default=60.0, help="seconds for all pairs (default 60)")
    command.add_argument("--json", action="store_true", help="print the figures as JSON")


def noise(arguments: argparse.Namespace) -> int:
    """Do it."""
    from workbench.measure.comparison.noise import cached_noise, measure_noise
    from workbench.present.progress_log import ProgressLog

    try:
        found = measure_noise(
            backends=arguments.backends, budget_s=arguments.budget_s, progress=ProgressLog(sys.stderr)
        )
    except KeyboardInterrupt:
        say("Stopped by Ctrl-C. The floor that was kept before stays.")
        return STOPPED
    write(json.dumps(dataclasses.asdict(found), indent=1) if arguments.json else f"{found}.")
    kept = cached_noise()
    if kept is not None and kept != found:
        say(f"Kept for verdicts, since it was measured quietly: {kept}.")
    return DONE
