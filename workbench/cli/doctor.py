"""``workbench doctor``: show the machine and its backends."""

from __future__ import annotations

import argparse
import json
from typing import Any

from workbench.cli.base import DONE, add_command, write


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
