"""Targets on the edges of what a worker takes, for the SDKs that check them."""

from __future__ import annotations


def target_cases() -> list[str]:
    """Return targets, half of which are none."""
    name, key = "a" * 64, "\N{SNOWMAN}" * 199 + "\N{GRINNING FACE}"
    good = ["a", name, f"{name}/{key}", "a/ /~", "_.-", "0", "model:a", f"model:{name}@123456789", "a/b/c"]
    long = [f"{name}a", f"a/{key}x", f"model:{name}a", "model:a@1234567890"]
    return [
        *good,
        *long,
        "",
        "a/",
        "-a",
        ".a",
        "a b",
        "a\n",
        "a/\n",
        "a/\x85",
        "model:",
        "model:a@0",
        "model:a/b",
        "\xe4",
    ]
