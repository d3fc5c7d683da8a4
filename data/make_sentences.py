"""Make sentences.txt from the docstrings of Python's standard library, and minilm_targets.npz from the sentences.

python data/make_sentences.py                 # sentences.txt; the same bytes with Python 3.11.7
python data/make_sentences.py --targets       # minilm_targets.npz; needs the extra minilm
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import sysconfig
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
# Modules whose docstrings are prose; packages are read whole, tests left out.
MODULES = """
argparse ast asyncio bz2 calendar cmd codecs collections concurrent configparser contextlib copy csv dataclasses
datetime decimal difflib email enum filecmp fileinput fractions ftplib functools getpass gettext glob graphlib gzip
hashlib heapq hmac html http imaplib importlib inspect io ipaddress json locale logging lzma mailbox mimetypes
multiprocessing netrc numbers optparse os pathlib pdb pickle platform plistlib poplib posixpath pprint profile queue
random re sched secrets selectors shelve shlex shutil smtplib socket socketserver sqlite3 ssl stat statistics string
subprocess tarfile tempfile textwrap threading timeit tkinter tokenize traceback turtle types typing unittest urllib
uuid warnings wave weakref xml xmlrpc zipfile
"""
PER_MODULE = 90
BLOCK = 4
COUNT = 2504
ODD = re.compile(r"[`<>{}|=_*\[\]#\\@/:;\"]|\(\)|e\.g|i\.e|\.\.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", action="store_true")
    if parser.parse_args().targets:
        write_targets()
    else:
        (HERE / "sentences.txt").write_text("\n".join(chosen()) + "\n", encoding="ascii")


def chosen() -> list[str]:
    """Return blocks of four sentences that stand near each other, in a fixed random order of the blocks."""
    seen: set[str] = set()
    blocks: list[list[str]] = []
    for module in MODULES.split():
        own = [s for s in of_module(module) if not (s.lower() in seen or seen.add(s.lower()))]
        own = own[: PER_MODULE // BLOCK * BLOCK]
        blocks += [own[i : i + BLOCK] for i in range(0, len(own) - BLOCK + 1, BLOCK)]
    random.Random(0).shuffle(blocks)
    return [sentence for block in blocks[: COUNT // BLOCK] for sentence in block]


def of_module(name: str) -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / f"{name}.py"]
    return [s for file in files if "test" not in file.parts for s in of_file(file)]


def of_file(file: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    return [s for node in nodes for s in of_docstring(ast.get_docstring(node) or "")]


def of_docstring(text: str) -> list[str]:
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        line = " ".join(paragraph.split())
        if paragraph.lstrip().startswith((">>>", "-", "*", "|")) or "  " in paragraph.strip().replace("\n", " "):
            continue
        found += [s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", line) if is_prose(s)]
    return found


def is_prose(sentence: str) -> bool:
    whole = sentence.isascii() and sentence[:1].isupper() and sentence.endswith(".")
    return whole and 6 <= len(sentence.split()) <= 22 and not ODD.search(sentence)


def write_targets() -> None:
    import torch

    from workbench.tasks.sentences import _build, tokenize

    texts = (HERE / "sentences.txt").read_text(encoding="ascii").splitlines()
    model, inputs = _build(), tokenize(texts)
    with torch.no_grad():
        parts = [model(**{k: v[i : i + 64] for k, v in inputs.items()}) for i in range(0, len(texts), 64)]
    np.savez(HERE / "minilm_targets.npz", embeddings=torch.cat(parts).numpy().astype(np.float16))


if __name__ == "__main__":
    main()
