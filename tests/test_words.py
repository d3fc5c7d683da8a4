"""Hold the rules for words in CONTRIBUTING.md by patterns."""

from __future__ import annotations

import pytest
from paths import ROOT
from word_rules import below


@pytest.mark.parametrize("room", sorted(path.name for path in (ROOT / "workbench").iterdir() if path.is_dir()))
def test_a_room_keeps_to_the_rules_for_words(room):
    findings = below(ROOT / "workbench" / room)
    assert not findings, "\n".join(map(str, findings))
