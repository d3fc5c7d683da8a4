"""How long `import workbench` takes in a fresh interpreter, against an interpreter that imports nothing.

    python benchmarks/import_time.py [--repeat 20]

Prints the median of each, interleaved, and exits with 1 where the difference is over 0.15 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

LIMIT_S = 0.15


def seconds(code: str) -> float:
    """Return the wall time of a fresh interpreter that runs ``code``."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=20)
    repeat = parser.parse_args().repeat
    seconds("import workbench")  # fills the bytecode cache
    pairs = [(seconds("pass"), seconds("import workbench")) for _ in range(repeat)]
    bare, full = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"bare interpreter   {bare:.3f} s")
    print(f"import workbench   {full:.3f} s")
    print(f"difference         {full - bare:.3f} s (limit {LIMIT_S} s)")
    return int(full - bare > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
