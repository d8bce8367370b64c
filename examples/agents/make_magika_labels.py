"""Write magika_labels.h, the table of the `features` agent, from the labels.json of a fetched magika model.

    python3 scripts/fetch_magika.py
    python3 examples/agents/make_magika_labels.py .cache/magika/labels.json

The header holds names and thresholds in the order of the model's output, nothing of the model's weights. Run this again
when the model changes, then scripts/build_agents.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEADER = Path(__file__).with_name("magika_labels.h")

HEAD = """\
/* The labels of magika's model standard_v3_3, in the order of its output. Made by make_magika_labels.py; do not edit.
 *
 * Names and thresholds are from the model configuration of magika 1.0.3 (https://github.com/google/magika), Copyright
 * Google LLC, Apache-2.0. `output` is shown if the score reaches `threshold`; below it, "txt" for text and "unknown"
 * for the rest.
 */
typedef struct {
    rota_bytes output;
    bool is_text;
    double threshold;
} magika_label;

#define LABEL(output, is_text, threshold) {{(const uint8_t *)output, sizeof output - 1}, is_text, threshold}

"""


def table(labels_json: str) -> str:
    """Return the header for the four parallel arrays of labels.json."""
    columns = json.loads(labels_json)
    rows = zip(columns["output"], columns["is_text"], columns["threshold"], strict=True)
    lines = [f'    LABEL("{output}", {int(is_text)}, {threshold}),' for output, is_text, threshold in rows]
    start = f"enum {{ MAGIKA_LABELS = {len(lines)} }};\n\nstatic const magika_label magika_labels[MAGIKA_LABELS] = {{\n"
    return HEAD + start + "\n".join(lines) + "\n};\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_magika_labels.py FOLDER/labels.json")
    HEADER.write_text(table(Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8")
