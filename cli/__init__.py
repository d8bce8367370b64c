"""The `rota` command. docs/CLI.md is its map, `__main__.py` its table of commands."""
