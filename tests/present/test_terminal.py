"""Progress as lines of text."""

from __future__ import annotations

import io
import re
import time

from workbench.core.progress import Progress
from workbench.present.terminal import ProgressLog


def test_news_is_written_once_and_not_too_often() -> None:
    stream = io.StringIO()
    lines = ProgressLog(stream, every_s=3600)
    lines(Progress("study", 0, 3, "first"))
    lines(Progress("study", 0.5, 3, "too soon"))
    lines(Progress("study", 1.9, 3, "a trial ended", {"row": {"state": "complete"}}))
    lines(Progress("study", 1.9, 3, "a trial ended", {"row": {"state": "complete"}}))
    lines(Progress("study", 2, 3, "a trial began", {"row": {"state": "running"}}))
    lines.write("the end")
    words = [re.sub(r"^\[ *\d+ s\] ", "", line) for line in stream.getvalue().splitlines()]
    assert words == ["0/3 first", "1/3 a trial ended", "the end"]


def test_stage_stands_in_for_a_message_and_seconds_count_from_the_start() -> None:
    stream = io.StringIO()
    ProgressLog(stream, started_at=time.time() - 100)(Progress("load"))
    assert re.fullmatch(r"\[ 10\d s\] load\n", stream.getvalue())


def test_a_reader_that_has_gone_does_not_end_the_work() -> None:
    class Closed(io.StringIO):
        def write(self, words: str) -> int:
            raise BrokenPipeError

    ProgressLog(Closed())(Progress("study", message="unheard"))
