"""Faults of code, and of what is kept of it: the fields of `Mutation` in _mutations.py."""

from __future__ import annotations

from typing import Final

_BUNDLE: Final = ("tests/common/test_bundle.py",)
_KEPT: Final = ("tests/broker/test_modules.py",)

CODE_FAULTS: Final = (
    (
        "source-without-order",
        "the tasks of one address of a source run one after another",
        "common/code_kinds.py",
        'SOURCE, "cpu", "", keeps_state=True',
        'SOURCE, "cpu", "", keeps_state=False',
        ("tests/broker/test_lane.py",),
    ),
    (
        "deploy-refused-after-effect",
        "a deploy that took effect is answered as before",
        "broker/deploys.py",
        "        answer = broker.world.producers.old_answer(pending.origin)  #",
        "        answer = None  #",
        ("tests/broker/test_requests.py",),
    ),
    (
        "refused-and-acknowledged",
        "code that could not be stored is not acknowledged",
        "broker/requests.py",
        "            if objection is not None:\n                raise objection\n            _CONVERSATIONS",
        "            _CONVERSATIONS",
        ("tests/broker/test_requests.py",),
    ),
    (
        "stored-under-another-name",
        "what is kept under a digest has it",
        "broker/modules.py",
        "        if digest(data) != named:\n            raise CodeError",
        "        if not data:\n            raise CodeError",
        _KEPT,
    ),
    (
        "bundle-without-program",
        "a bundle is bound only if its program is there",
        "broker/modules.py",
        '            raise _not_kept(bundle.module, "runtime")',
        "            pass",
        _KEPT,
    ),
    (
        "program-compacted-away",
        "compaction keeps the program of a bundle that something names",
        "broker/modules.py",
        "[*modules, *programs(self._folder, named)]",
        "[*modules]",
        _KEPT,
    ),
    (
        "two-forms-of-a-bundle",
        "one bundle has one encoding, so one digest",
        "common/bundle.py",
        "    if pack((VERSION, *bundle)) != data:\n",
        "    if not data:\n",
        _BUNDLE,
    ),
    (
        "bundle-in-any-order",
        "the files of a bundle are in order, none twice",
        "common/bundle.py",
        "        if before >= after:\n",
        "        if not after:\n",
        _BUNDLE,
    ),
    (
        "killed-is-refused",
        "a compiler that the host kills costs a try, not the task",
        "worker/executor.py",
        'return "faulted" if isinstance(error, HostFault) else "refused"',
        'return "refused"',
        ("tests/cpu_worker/test_compiler.py",),
    ),
    (
        "reuse-unseen",
        "verify compares fuel and log lines of modules with reuse",
        "proof/verify.py",
        "        or kind_of(actual.code).has_provenance\n        or was_decided(found)",
        "        or actual.code.reuse\n        or kind_of(actual.code).has_provenance\n        or was_decided(found)",
        ("tests/proof/test_divergence_causes.py",),
    ),
)
