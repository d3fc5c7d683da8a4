"""Count the package: files, lines and AST statements per room. ``python tools/count_code.py [REVISION]`` compares."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def sources(revision: str | None) -> dict[str, str]:
    """Return path and text of every Python file of the package, as checked out or at a git revision."""
    if revision is None:
        files = sorted((ROOT / "workbench").rglob("*.py*"))
        return {str(file.relative_to(ROOT)): file.read_text() for file in files if file.suffix in (".py", ".pyi")}
    names = _git("ls-tree", "-r", "--name-only", revision, "workbench").split("\n")
    return {name: _git("show", f"{revision}:{name}") for name in names if name.endswith((".py", ".pyi"))}


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def counts(files: dict[str, str]) -> dict[str, Counter[str]]:
    """Return files, lines and statements per room, and their total under ``workbench``."""
    rooms: dict[str, Counter[str]] = {}
    for name, text in files.items():
        statements = sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(text)))
        parts = name.split("/")
        for room in ("workbench", f"workbench/{parts[1]}" if len(parts) > 2 else "workbench/*.py"):
            rooms.setdefault(room, Counter()).update(files=1, lines=text.count("\n"), statements=statements)
    return rooms


def main() -> None:
    """Print the table, beside that of a revision if one is given."""
    now, then = counts(sources(None)), counts(sources(sys.argv[1])) if sys.argv[1:] else {}
    for room in sorted(now.keys() | then.keys()):
        new, old = now.get(room, Counter()), then.get(room)
        cells = [
            f"{key} {new[key]:6}" + (f" (was {old[key]:6})" if old else "") for key in ("files", "lines", "statements")
        ]
        sys.stdout.write(f"{room:22} " + "  ".join(cells) + "\n")


if __name__ == "__main__":
    main()
