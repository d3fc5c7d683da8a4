"""What compiled code writes to standard error: known lines are dropped, all else is passed on."""

from __future__ import annotations

import os

import pytest

from workbench.core.quiet import without_lines


def test_lines_of_a_prefix_are_dropped_and_others_passed_on(capfd):
    with without_lines("USDT:"):
        os.write(2, b"USDT: begin\nhelp, USDT: is not first\nUSDT: end\n")
    os.write(2, b"USDT: later\n")
    assert capfd.readouterr().err == "help, USDT: is not first\nUSDT: later\n"


def test_nothing_is_lost_where_the_block_fails(capfd):
    with pytest.raises(ZeroDivisionError), without_lines("USDT:"):
        os.write(2, b"the reason\n")
        _ = 1 / 0
    assert capfd.readouterr().err == "the reason\n"
