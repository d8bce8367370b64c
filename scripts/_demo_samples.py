"""Files for the demo that are the same on every machine: made up, of two dozen types. Standard library only.

File `number` is a function of its number, so the demo's input does not depend on what is installed. Its bytes are part
of the demo's digest: a change here is another digest.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Final

from _demo_files import BLOCK_BYTES, Sample, Samples

_WORDS: Final = (
    "anchor", "basin", "copper", "delta", "ember", "field", "garden", "harbor", "island", "juniper", "kernel",
    "lantern", "meadow", "needle", "orchard", "pebble", "quarry", "river", "saddle", "timber", "upland", "valley",
    "willow", "yarrow",
)  # fmt: skip
_PARTS_MAX: Final = 50  # of a text: with so many it is longer than the part that is sent

# suffix: how a text begins, what is in it several times, how it ends. a, b, c are words, n is a number.
_TEXTS: Final[dict[str, tuple[str, str, str]]] = {
    "py": (
        '"""Work on each %(a)s."""\n\nfrom __future__ import annotations\n\nimport sys\n\n\n',
        "def %(a)s_%(b)s(%(c)s: int) -> int:\n    if %(c)s > %(n)d:\n"
        "        raise ValueError(f'{%(c)s} is too large')\n    return %(c)s + %(n)d\n\n\n",
        "if __name__ == '__main__':\n    sys.exit(%(a)s_%(b)s(len(sys.argv)))\n",
    ),
    "c": (
        "#include <stdio.h>\n#include <stdlib.h>\n\n",
        "static int %(a)s_%(b)s(const char *%(c)s, size_t size) {\n    if (!%(c)s || size > %(n)d) return -1;\n"
        "    return %(c)s[0] == '%(a).1s';\n}\n\n",
        'int main(void) {\n    printf("%%d\\n", %(a)s_%(b)s("%(c)s", 6));\n    return EXIT_SUCCESS;\n}\n',
    ),
    "js": (
        "'use strict';\n\nconst { %(a)s } = require('./%(b)s');\n\n",
        "function %(a)s%(n)d(%(b)s) {\n  const %(c)s = %(b)s.map((one) => one.length + %(n)d);\n"
        "  return %(c)s.filter(Boolean);\n}\n\n",
        "module.exports = { %(a)s };\n",
    ),
    "java": (
        "package org.example.%(a)s;\n\nimport java.util.List;\n\npublic final class Store {\n",
        "    public static int %(a)s%(n)d(List<String> %(b)s) {\n        for (String %(c)s : %(b)s) {\n"
        '            System.out.println(%(c)s + "%(a)s");\n        }\n        return %(n)d;\n    }\n\n',
        "}\n",
    ),
    "go": (
        'package %(a)s\n\nimport (\n\t"errors"\n\t"fmt"\n)\n\n',
        "func %(a)s%(n)d(%(b)s []string) (int, error) {\n\tif len(%(b)s) == 0 {\n"
        '\t\treturn 0, errors.New("%(c)s")\n\t}\n'
        "\tfmt.Println(%(b)s[0])\n\treturn %(n)d, nil\n}\n\n",
        "",
    ),
    "rs": (
        "use std::collections::HashMap;\n\n",
        "pub fn %(a)s_%(b)s(%(c)s: &HashMap<String, u32>) -> Option<u32> {\n    let mut sum = %(n)d;\n"
        "    for (_, value) in %(c)s.iter() {\n        sum += *value;\n    }\n    Some(sum)\n}\n\n",
        "",
    ),
    "sh": (
        "#!/bin/sh\nset -eu\n\n",
        '%(a)s_%(b)s() {\n    if [ ! -d "$1/%(c)s" ]; then\n'
        '        echo "no %(c)s in $1" >&2\n        exit %(n)d\n    fi\n}\n\n',
        '%(a)s_%(b)s "${1:-.}"\n',
    ),
    "sql": (
        "BEGIN TRANSACTION;\nCREATE TABLE %(a)s (id INTEGER PRIMARY KEY, %(b)s TEXT NOT NULL, %(c)s REAL);\n",
        "INSERT INTO %(a)s (id, %(b)s, %(c)s) VALUES (%(n)d, '%(c)s', %(n)d.5);\n",
        "SELECT %(b)s, COUNT(*) FROM %(a)s WHERE %(c)s > %(n)d GROUP BY %(b)s ORDER BY 2 DESC;\nCOMMIT;\n",
    ),
    "html": (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>%(a)s</title></head>\n<body>\n',
        '<h2 id="%(a)s">%(b)s</h2>\n<p>The %(a)s by the <a href="%(c)s-%(n)d.html">%(c)s</a>.</p>\n',
        "</body>\n</html>\n",
    ),
    "css": (
        '@charset "utf-8";\n\n',
        ".%(a)s .%(b)s:hover {\n  margin: %(n)dpx auto;\n  color: #3a5f0b;\n  background: url('%(c)s.png');\n}\n\n",
        "",
    ),
    "xml": (
        '<?xml version="1.0" encoding="UTF-8"?>\n<%(a)s version="1.0">\n',
        '  <item id="%(n)d"><%(b)s>%(c)s</%(b)s></item>\n',
        "</%(a)s>\n",
    ),
    "json": ("[\n", '  {"id": %(n)d, "%(a)s": "%(b)s", "tags": ["%(c)s", null], "open": true},\n', '  {"id": 0}\n]\n'),
    "yaml": (
        "---\nname: %(a)s\nversion: 2\nservices:\n",
        "  - name: %(a)s-%(n)d\n    image: %(b)s:latest\n    ports:\n      - %(n)d\n    labels:\n      %(c)s: 'yes'\n",
        "",
    ),
    "toml": ('title = "%(a)s"\n\n', '[[%(a)s]]\nname = "%(b)s"\nweight = %(n)d\n%(c)s = ["x", "y"]\n\n', ""),
    "ini": ("; settings of %(a)s\n", "[%(a)s-%(n)d]\n%(b)s = %(c)s\nlimit = %(n)d\n\n", ""),
    "csv": ("id,%(a)s,%(b)s,%(c)s\n", "%(n)d,%(a)s,%(b)s,%(n)d.25\n", ""),
    "md": (
        "# The %(a)s\n\n",
        "## %(b)s %(n)d\n\n- take the *%(a)s* to the **%(c)s**\n- see [%(b)s](%(c)s.md)\n\n```\nmake %(a)s\n```\n\n",
        "",
    ),
    "tex": (
        "\\documentclass{article}\n\\usepackage{amsmath}\n\\begin{document}\n",
        "\\section{%(a)s}\nLet $x_{%(n)d}$ be the %(b)s of a \\emph{%(c)s}:\n\\begin{equation}\nx = \\frac{%(n)d}{y}\n"
        "\\end{equation}\n",
        "\\end{document}\n",
    ),
    "txt": ("Notes of a walk\n\n", "After %(n)d steps the %(a)s ends at a %(b)s; behind it lies the %(c)s.\n", ""),
    "diff": (
        "",
        "--- a/%(a)s.txt\n+++ b/%(a)s.txt\n@@ -%(n)d,2 +%(n)d,2 @@\n the %(a)s\n-a %(b)s\n+a %(c)s\n",
        "",
    ),
}
_KINDS: Final = (*_TEXTS, "wav", "bmp", "gif", "bin", "short", "empty")


def made_samples(count: int) -> Samples:
    """Return the first `count` files."""
    return Samples([_sample(number) for number in range(count)], count, [])


def _sample(number: int) -> Sample:
    kind = _KINDS[number % len(_KINDS)]
    data = _text(kind, number) if kind in _TEXTS else _binary(kind, number)
    tail = data[-BLOCK_BYTES:] if len(data) > BLOCK_BYTES else None
    return Sample(f"{number}.{kind}", len(data), data[:BLOCK_BYTES], tail)


def _text(kind: str, number: int) -> bytes:
    begin, part, end = _TEXTS[kind]
    numbers = _numbers(number)
    parts = 5 + next(numbers) % _PARTS_MAX
    return "".join([form % _choose(numbers) for form in (begin, *[part] * parts, end)]).encode()


def _choose(numbers: Iterator[int]) -> dict[str, object]:
    """Return three words and a number."""
    return {**{name: _WORDS[next(numbers) % len(_WORDS)] for name in "abc"}, "n": next(numbers) % 1_000}


def _binary(kind: str, number: int) -> bytes:
    numbers = _numbers(number)
    side = 16 + next(numbers) % 64
    noise = bytes([next(numbers) % 256 for _ in range(3 * side * side)])
    if kind == "wav":
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8_000, 8_000, 1, 8)
        return (
            b"RIFF"
            + struct.pack("<I", 36 + len(noise))
            + b"WAVE"
            + form
            + struct.pack("<4sI", b"data", len(noise))
            + noise
        )
    if kind == "bmp":
        rows = b"".join([noise[3 * side * row : 3 * side * (row + 1)] + bytes(-3 * side % 4) for row in range(side)])
        return (
            struct.pack(
                "<2sIIIIiiHHIIiiII", b"BM", 54 + len(rows), 0, 54, 40, side, side, 1, 24, 0, len(rows), *[0] * 4
            )
            + rows
        )
    if kind == "gif":
        blocks = b"".join([b"\xff" + noise[start : start + 255] for start in range(0, len(noise) - 255, 255)])
        return (
            b"GIF89a"
            + struct.pack("<HHBBB", side, side, 0xF7, 0, 0)
            + noise[:768]
            + b","
            + struct.pack("<HHHHBB", 0, 0, side, side, 0, 8)
            + blocks
            + b"\0;"
        )
    return {"bin": noise, "short": b"ab\n", "empty": b""}[kind]


def _numbers(number: int) -> Iterator[int]:
    """Yield numbers below 2^32 that look random and follow from `number`."""
    block = 0
    while True:
        yield from struct.unpack("<8I", hashlib.sha256(b"%d %d" % (number, block)).digest())
        block += 1
