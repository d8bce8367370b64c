"""The `rota` command. docs/CLI.md describes it, `__main__.py` has the table of commands."""
