"""How a missing part of Rota is installed here, for the remedy of an error.

Rota is not on a package index: an extra is installed from the folder that Rota itself came from, as pip has noted it.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit


def install_command(extra: str, *, options: str = "") -> str:
    """Return the command that installs an extra (`cpu`, `gpu`); `options` are pip's, with a space behind."""
    folder = _source_folder()
    if folder is None:
        return f"pip install {options}'.[{extra}]' in Rota's source folder"
    return f"pip install {options}'{folder}[{extra}]'"


def _source_folder() -> Path | None:
    """The folder that Rota was installed from, if it is still there (PEP 610).

    In that folder the notes of its build are found first, which say nothing; so all that bear the name are asked.
    """
    for found in metadata.distributions(name="rota"):
        try:
            noted = json.loads(found.read_text("direct_url.json") or "{}")
            url = urlsplit(str(noted.get("url", "")))
        except (ValueError, AttributeError):
            continue
        folder = Path(unquote(url.path))
        if url.scheme == "file" and (folder / "pyproject.toml").is_file():
            return folder
    return None
