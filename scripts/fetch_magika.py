"""Take the magika file-type model out of its PyPI wheel, without installing it. Usage: fetch_magika.py [FOLDER]

FOLDER (default `.cache/magika`) becomes a model folder; nothing is done if it is there and complete. Prints the folder.
`rota model fetch magika` adds the same model to a repository. The first run makes `.venv`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from _environment import REPOSITORY, ensure_environment

NOT_FETCHED = 3  # exit status: the package index could not be reached or has no such wheel
BAD_CONTENT = 4  # exit status: the content does not match its pins


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 2
    ensure_environment([])
    from rota.common.errors import CodeError, ConfigError
    from rota.model_builds.catalog import cached

    folder = Path(arguments[0]) if arguments else REPOSITORY / ".cache" / "magika"
    try:
        print(cached("magika", None, folder, lambda _: None))
    except (ConfigError, CodeError) as error:
        print(f"fetch_magika: {error.message}", file=sys.stderr)
        return BAD_CONTENT if isinstance(error, CodeError) else NOT_FETCHED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
