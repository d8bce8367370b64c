"""scripts/conversation_growth.py: both ways of a dialogue give the same answers, and one of them does not grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "conversation_growth.py"


@pytest.mark.processes
def test_a_dialogue_by_its_head_does_not_send_its_history() -> None:
    """Goal: journal and wire grow by what is said. Method: 12 turns both ways, on a tiny decoder; all prompts are the
    same, and most of their tokens come from the cache.
    """
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--turns", "12", "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    by_head, whole = told["by_head"], told["whole"]
    assert by_head["prompt_tokens"] == whole["prompt_tokens"]
    assert by_head["payload_bytes"] < whole["payload_bytes"] / 3
    assert by_head["journal_bytes"] < whole["journal_bytes"] * 2 / 3  # records of deploys and epochs included
    assert (by_head["remembered_bytes"], whole["remembered_bytes"] > 500) == (32, True)
    for cost in (by_head, whole):
        counts = cost["counters"]
        assert counts["tokens_prefilled"] + counts["tokens_cached"] == cost["prompt_tokens"]
        assert counts["tokens_prefilled"] < cost["prompt_tokens"] / 2
