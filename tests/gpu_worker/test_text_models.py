"""Models of texts in the executor: generation in slots, streams, conversations, and texts as rows of batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_encoder import WORDS, build_tiny_encoder

from rota.common.text_calls import ChatMessage, EmbedCall, GenerateCall, encode_text_call
from rota.common.text_results import EmbedResult, GenerateResult, decode_text_result
from rota.common.work import MODEL, Code, Done, Failed, Limits
from rota.conversations.store import ConversationStore
from rota.model_builds.random_decoder import build_random_decoder
from rota.worker.executor import Counted, Ended, Streaming


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_decoder(tmp_path_factory.mktemp("decoder") / "made", slots=3)


@pytest.fixture
def talk(kit: Any, tmp_path: Path, decoder: Path) -> Iterator[Any]:
    """A bench with a decoder and a store of conversations."""
    with ConversationStore(tmp_path / "conversations.sqlite") as store:
        bench = kit.Bench(tmp_path, conversations=store)
        bench.code = Code(bench.repository.add(decoder, "m").digest, MODEL, limits=Limits(timeout_ms=60_000))
        yield bench
        bench.executor.close()


def task(kit: Any, **fields: Any) -> Any:
    return kit.task(encode_text_call(GenerateCall(**fields)))


def generated(outcome: Any) -> GenerateResult:
    assert isinstance(outcome, Done), outcome
    result = decode_text_result(outcome.result or b"")
    assert isinstance(result, GenerateResult)
    return result


def requests(kit: Any) -> list[Any]:
    greedy = [task(kit, prompt=f"Tell me about {word}", max_tokens=8 + at) for at, word in enumerate(WORDS[:5])]
    drawn = [task(kit, prompt="Once", max_tokens=12, temperature=1.0, seed=seed) for seed in range(4)]
    return greedy + drawn


def test_requests_in_any_company_give_the_text_they_give_alone(talk: Any, kit: Any) -> None:
    """Goal: slots, neighbours and the order of arrival do not show. Method: each request alone, then all at once in two
    orders and from two lanes; a bad one among them ends at once."""
    tasks = requests(kit)
    alone = [talk.run(talk.code, one).outcomes[0] for one in tasks]
    assert len({generated(outcome).tokens for outcome in alone}) > 4
    bad = task(kit, prompt="x" * 10_000)
    for order in (tasks, tasks[::-1]):
        jobs = [talk.take(talk.code, one, lane=at % 2) for at, one in enumerate([*order, bad])]
        *results, refused = talk.end(*jobs)
        expected = alone if order is tasks else alone[::-1]
        assert [result.outcomes[0] for result in results] == expected
        assert isinstance(refused.outcomes[0], Failed)
        assert refused.outcomes[0].kind == "bad_input"
        assert results[0].provenance[0] == "bitwise"


def test_the_time_of_a_text_is_that_of_all_its_steps(talk: Any, kit: Any) -> None:
    """Goal: the broker learns what a text takes, and hands out few at a time. Method: two texts that begin together;
    the longer one took part in all steps of the shorter one, and in more."""
    talk.run(talk.code, task(kit, prompt="Hi", max_tokens=1))
    jobs = [talk.take(talk.code, task(kit, prompt="Hi", max_tokens=count)) for count in (1, 40)]
    talk.end(*jobs)
    elapsed = {report.job: report.elapsed_us for report in talk.reports if isinstance(report, Ended)}
    assert elapsed[jobs[1]] > elapsed[jobs[0]]


def test_pieces_of_a_stream_make_the_text(talk: Any, kit: Any) -> None:
    """Goal: what is streamed is the result's text, in order, under its job and address."""
    job = talk.take(talk.code, task(kit, prompt="Tell me", max_tokens=20))
    (result,) = talk.end(job)
    pieces = [report for report in talk.reports if isinstance(report, Streaming)]
    text = ""
    for piece in pieces:
        assert (piece.job, piece.address, piece.turn, piece.offset) == (job, "model:m", 1, len(text))
        text += piece.text
    assert text == generated(result.outcomes[0]).text
    assert len(pieces) > 1


def test_a_dropped_request_frees_its_slot(talk: Any, kit: Any) -> None:
    """Goal: a cancel takes effect between two steps. Method: more long requests than slots, dropped after a few tokens;
    then a short one."""
    long = [talk.take(talk.code, task(kit, prompt="Tell me", max_tokens=400, seed=at)) for at in range(4)]
    while not any(isinstance(report, Streaming) for report in talk.reports):
        talk.step()
    for job in long:
        talk.executor.drop(job)
    assert [result.stopped for result in talk.end(*long)] == ["interrupted"] * 4
    assert generated(talk.run(talk.code, task(kit, prompt="Hi", max_tokens=2)).outcomes[0]).usage.generated == 2
    line = talk.executor._lines[talk.code.digest]
    assert not line.texts
    assert line.resident.generating.is_idle


def test_a_request_that_takes_too_long_ends_alone(talk: Any, kit: Any) -> None:
    """Goal: `timeout_ms` bounds one request, not its neighbours. Method: one millisecond beside a minute."""
    hasty = talk.code._replace(limits=Limits(timeout_ms=1))
    talk.run(talk.code, task(kit, prompt="Hi", max_tokens=1))
    jobs = (
        talk.take(talk.code, task(kit, prompt="Hi", max_tokens=20)),
        talk.take(hasty, task(kit, prompt="Hi", max_tokens=400)),
    )
    patient, late = talk.end(*jobs)
    assert generated(patient.outcomes[0]).usage.generated == 20
    assert (late.outcomes, late.stopped) == ((), "timeout")


def test_a_conversation_goes_on_from_its_head(talk: Any, kit: Any) -> None:
    """Goal: a head stands for what was said. Method: two turns by the head, against one call with all messages; an
    unknown head is `faulted`."""
    first = ChatMessage("user", "the cat")
    begun = generated(talk.run(talk.code, task(kit, messages=(first,), conversation=b"", max_tokens=6)).outcomes[0])
    assert begun.conversation is not None
    second = ChatMessage("user", "and the dog")
    told = task(kit, messages=(second,), conversation=begun.conversation, max_tokens=6)
    answer = generated(talk.run(talk.code, told).outcomes[0])
    whole = (first, ChatMessage("assistant", begun.text), second)
    sent = generated(talk.run(talk.code, task(kit, messages=whole, max_tokens=6)).outcomes[0])
    assert answer._replace(conversation=None) == sent
    assert talk.run(talk.code, told).outcomes[0].result == talk.run(talk.code, told).outcomes[0].result
    lost = talk.run(talk.code, task(kit, messages=(second,), conversation=bytes(32), max_tokens=6))
    assert (lost.outcomes, lost.stopped) == ((), "faulted")
    counted = [report for report in talk.reports if isinstance(report, Counted)][-1].models[0]
    assert counted.tokens_generated >= 30
    assert counted.tokens_prefilled > 0


def test_texts_share_batches_and_have_the_vectors_they_have_alone(kit: Any, tmp_path: Path) -> None:
    """Goal: an embed task's texts are rows like any others. Method: tasks of several texts of any length, alone and all
    at once; fewer runs than texts."""
    bench = kit.Bench(tmp_path)
    try:
        folder = build_tiny_encoder(tmp_path / "made", pooling="mean", normalize=True)
        code = Code(bench.repository.add(folder, "m").digest, MODEL)
        texts = [" ".join(WORDS[at : at + 1 + at % 9]) for at in range(12)]
        tasks = [EmbedCall(tuple(texts[at : at + 1 + at % 3])) for at in range(9)]
        payloads = [kit.task(encode_text_call(one)) for one in tasks]
        alone = [bench.run(code, payload).outcomes[0] for payload in payloads]
        for one, outcome in zip(tasks, alone, strict=True):
            assert isinstance(outcome, Done)
            result = decode_text_result(outcome.result or b"", outcome.tensors)
            assert isinstance(result, EmbedResult)
            assert result.vectors.shape[0] == len(one.texts)
        calls = bench.executor._lines[code.digest].calls
        jobs = [bench.take(code, *payloads), bench.take(code, *payloads[::-1], lane=1)]
        forth, back = bench.end(*jobs)
        assert list(forth.outcomes) == alone
        assert list(back.outcomes) == alone[::-1]
        assert bench.executor._lines[code.digest].calls - calls < sum(len(one.texts) for one in tasks)
        bad = bench.run(code, payloads[0], kit.task(b"\x80"), kit.task(encode_text_call(EmbedCall(("the " * 100,)))))
        assert [type(outcome) for outcome in bad.outcomes] == [Done, Failed, Failed]
    finally:
        bench.executor.close()
