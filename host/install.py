"""How to install a missing extra of Rota here, for error messages.

Rota is not on a package index: an extra is installed from the folder that pip has recorded as Rota's source.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit


def install_command(extra: str, *, options: str = "") -> str:
    """Return the command that installs an extra (`cpu`, `gpu`); `options` are pip's and end in a space."""
    folder = _source_folder()
    if folder is None:
        return f"pip install {options}'.[{extra}]' in Rota's source folder"
    return f"pip install {options}'{folder}[{extra}]'"


def _source_folder() -> Path | None:
    """Return the folder that Rota was installed from, if it still exists (PEP 610).

    All distributions of the name are tried: run from that folder, its egg-info is found first and has no such entry.
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
