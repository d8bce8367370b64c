"""Every fuzz target, by name. Each decoder of bytes from outside has its target in one of these files."""

from __future__ import annotations

import file_targets
import message_targets
import model_targets
import proof_targets
import text_targets
import value_targets
from _fuzz_engine import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for kind in (message_targets, value_targets, file_targets, model_targets, proof_targets, text_targets)
    for target in kind.TARGETS
}
