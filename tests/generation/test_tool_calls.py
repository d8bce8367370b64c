"""Tool calls: formats, what counts as a call, and how a template without tools is told about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rota.common.text_calls import ChatMessage, ChatTool, ToolCall
from rota.generation.constraint import Grammars
from rota.generation.tool_calls import begin_of_calls, call_schema, calls_in, format_of, told_of_tools
from rota.model_builds.byte_tokenizer import SPECIAL, STOP_TOKEN, VOCABULARY
from rota.model_builds.random_decoder import build_random_decoder

TOOLS = (
    ChatTool("weather", "Tells it.", '{"type":"object","properties":{"city":{"type":"string"}}}'),
    ChatTool("stop"),
)
TAGS = format_of("{% if tools %}<tool_call>", True)
BARE = format_of("{{ messages }}", False)
LLAMA = format_of('{{ tools }} {"name": f, "parameters": p}', True)


@pytest.mark.parametrize(
    ("form", "text", "calls"),
    [
        (TAGS, '<tool_call>\n{"name":"stop","arguments":{}}\n</tool_call>', [("stop", "{}")]),
        (
            TAGS,
            '<tool_call>{"name":"stop","arguments":{}}</tool_call>\n<tool_call>{"name":"weather",'
            '"arguments":{"city": "é"}}</tool_call>',
            [("stop", "{}"), ("weather", '{"city":"é"}')],
        ),
        (TAGS, '<tool_call>{"name":"other","arguments":{}}</tool_call>', []),
        (TAGS, '<tool_call>{"name":"stop","arguments":[]}</tool_call>', []),
        (TAGS, '<tool_call>{"name":"stop","arguments":{}}</tool_call> and more', []),
        (TAGS, '<tool_call>{"name":"stop","argu', []),
        (TAGS, "", []),
        (BARE, ' {"name":"weather","arguments":{"city":"Bern"}}\n', [("weather", '{"city":"Bern"}')]),
        (BARE, '{"name":"weather"}', []),
        (BARE, '{"name":["weather"],"arguments":{}}', []),
        (BARE, "[1]", []),
        (BARE, "[" * 100_000, []),
        (LLAMA, '{"name":"weather","parameters":{"city":"Bern"}}', [("weather", '{"city":"Bern"}')]),
        (LLAMA, '{"name":"weather","arguments":{}}', [("weather", "{}")]),
    ],
)
def test_calls_are_found_or_not(form, text, calls) -> None:
    """Goal: only whole calls of known tools. Method: texts of each format, and nearly right ones."""
    found = calls_in(text, TOOLS, form)
    assert [(call.name, call.arguments) for call in found] == calls
    assert [call.id for call in found] == [f"call_{at}" for at in range(len(calls))]


@pytest.mark.parametrize(
    ("form", "text", "shown"),
    [
        (TAGS, "Let me see. <tool_call>{", "Let me see. "),
        (TAGS, "a < b <tool", "a < b "),
        (TAGS, "a < b", "a < b"),
        (BARE, '{"name', ""),
        (BARE, " \n", ""),
        (BARE, 'The {"name', 'The {"name'),
    ],
)
def test_what_may_become_a_call_is_not_shown(form, text, shown) -> None:
    """Goal: a call is no text, also before it is complete. Method: beginnings of both formats."""
    assert text[: begin_of_calls(text, form)] == shown


def test_a_call_may_be_of_any_tool_or_of_the_named_one() -> None:
    """Goal: `tool_choice`. Method: the names in the schema."""
    for choice, names in (("required", ["weather", "stop"]), ("stop", ["stop"])):
        schema = call_schema(TOOLS, choice, TAGS)
        assert [one["properties"]["name"]["const"] for one in schema["anyOf"]] == names


def test_references_of_a_tool_stay_within_its_parameters(tmp_path: Path) -> None:
    """Goal: schemas with definitions, as pydantic writes them, can be tools. Method: the library follows the combined
    schema; its references are those of each tool.
    """
    place = '{"type":"object","properties":{"at":{"$ref":"#/$defs/Place"}},"$defs":{"Place":{"enum":["Bern"]}}}'
    tools = (ChatTool("stop"), ChatTool("go", "", place))
    build_random_decoder(tmp_path)
    grammars = Grammars(tmp_path / "tokenizer.json", VOCABULARY, (STOP_TOKEN,))
    for choice in ("required", "go"):
        constraint = grammars.tool_call("", "", call_schema(tools, choice, BARE))
        for byte in b'{"name": "go", "arguments": {"at": "':
            assert constraint.allowed()[len(SPECIAL) + byte]
            constraint.accept(len(SPECIAL) + byte)
        assert constraint.allowed().nonzero()[0].tolist() == [len(SPECIAL) + ord("B")]


def test_a_template_without_tools_is_told_of_them() -> None:
    """Goal: any chat model can be asked for calls. Method: the messages with and without a system message."""
    told = told_of_tools([ChatMessage("user", "Hi")], TOOLS, "auto")
    assert [message.role for message in told] == ["system", "user"]
    assert '"name": "weather"' in told[0].content
    told = told_of_tools([ChatMessage("system", "Be brief."), ChatMessage("user", "Hi")], TOOLS, "required")
    assert told[0].content.startswith("Be brief.\n\nYou can call")
    assert len(told) == 2
    assert told_of_tools([ChatMessage("user", "Hi")], TOOLS, "none") == [ChatMessage("user", "Hi")]


def test_earlier_calls_become_plain_messages() -> None:
    """Goal: a dialogue with calls goes on with any template. Method: a call and its answer."""
    call = ToolCall("call_0", "weather", '{"city":"Bern"}')
    history = [ChatMessage("assistant", "", None, (call,)), ChatMessage("tool", "sunny", "weather", (), "call_0")]
    told = told_of_tools(history, (), "none")
    assert told == [
        ChatMessage("assistant", '{"name": "weather", "arguments": {"city":"Bern"}}'),
        ChatMessage("user", "Result of weather: sunny"),
    ]
