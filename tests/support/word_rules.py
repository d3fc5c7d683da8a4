"""Patterns against the rules for words in CONTRIBUTING.md. As a program: list their occurrences below some paths."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BRITISH = (
    r"\b\w*(?:artefact|colour|behaviour|favour|neighbour|honour|centre|"
    r"(?:optim|minim|maxim|normal|initial|material|serial|quant|recogn|summar|organ|synchron|util|special|general|"
    r"standard|visual|real|character|penal)is(?:e|es|ed|er|ers|ing|ation|ations)\b|\banalys(?:e|es|ed|ing)\b|"
    r"labelled|modelled|travell)\w*"
)

FIRST_LINE = {
    r"^(?:What|How|Where|Whose|Whether|Who|Which|Why|Say|Tell)\b": "rule 1: start with an imperative verb and a noun",
}
TEXT = {
    r"\b(?:says?|said|tells?|told|knows?|knew|hears?|heard|wants?|wanted)\b": "rule 4: write the fact",
    r"\b(?:None|True|False|nothing|empty|error|0|1|one|it|them),? where\b": "rule 2: if/when for conditions",
    r"\bwhere (?:it|they|there|nothing|none|that|this|neither|both|one|no|not|possible|needed)\b": "rule 2: if/when",
    r"(?<!there )\b(?:is|are) no (?!longer\b|more\b|smaller\b|larger\b)[a-z]": "rule 6: 'is not a valid ...'",
    r"\d ?[x×] faster": "rule 7: '4.2x speedup'",
    r"(?:,|^) ?since (?!\d)": "rule 8: because",
    r"\bbeside each other\b|\bside by side with\b": "rule 3: interleaved, or next to",
    BRITISH: "rule 10: American spelling",
}
NAMES = {"said", "told", "asked", "known", "found", "more", "seen", "heard", "wanted", "gone"}
"""Participles as names of variables, parameters or functions: rule 9 asks for the noun."""


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule."""

    file: Path
    line: int
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}: {self.text}"


def findings(file: Path) -> Iterator[Finding]:
    """Yield what a Python file breaks: in docstrings, comments, texts for readers, and names."""
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                line = node.body[0].lineno
                yield from _matches(file, line, docstring.partition("\n")[0], FIRST_LINE)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from _matches(file, node.lineno, node.value, TEXT)
        name = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else None
        name = node.arg if isinstance(node, ast.arg) else name
        if name and name.strip("_") in NAMES:
            yield Finding(file, node.lineno, name, "rule 9: name it by the noun")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from _matches(file, token.start[0], token.string, TEXT)


def _matches(file: Path, line: int, text: str, patterns: dict[str, str]) -> Iterator[Finding]:
    for pattern, reason in patterns.items():
        for match in re.finditer(pattern, text, re.IGNORECASE if pattern is BRITISH else 0):
            at = line + text.count("\n", 0, match.start())
            around = text[max(0, match.start() - 30) : match.end() + 30].replace("\n", " ")
            yield Finding(file, at, around, reason)


def below(*paths: Path) -> list[Finding]:
    """Return the findings in all Python files below some paths."""
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return [finding for file in files for finding in findings(file)]


if __name__ == "__main__":
    rows = below(*map(Path, sys.argv[1:] or ["workbench"]))
    sys.stdout.writelines(f"{row}\n" for row in rows)
    sys.stdout.write(f"{len(rows)} findings\n")
