"""Faults in images of interpreters. For _mutations.py: the fields of its `Mutation`."""

from __future__ import annotations

from typing import Final

_IMAGES: Final = ("tests/cpu_worker/test_images.py",)

IMAGE_FAULTS: Final = (
    (
        "image-without-globals",
        "a task begins exactly where its source was loaded",
        "cpu_worker/image_guest.py",
        "enumerate(self._globals[: len(prepared.values)])",
        "enumerate(self._globals[:0])",
        _IMAGES,
    ),
    (
        "image-with-half-a-table",
        "what an image cannot hold is refused",
        "cpu_worker/image_making.py",
        "        if guest.tables() != tables:\n",
        "        if guest.tables() is tables:\n",
        _IMAGES,
    ),
    (
        "artefact-unchecked",
        "nothing is run that does not carry our MAC",
        "cpu_worker/artefacts.py",
        "return found if hmac.compare_digest(mac, hasher.digest()) else None",
        "return found if mac else None",
        _IMAGES,
    ),
)
